//! Socket hooks, on a cgroup of their own.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::PathBuf,
};

use proxy_agent::dataplane::{
    attach::TcMode,
    audit::Kind,
    load::{ProgramName, SOCKET_HOOKS},
    probe,
    sys::{link, object, object::LinkInfo},
};

use crate::fixture::{repairs, with};

/// A cgroup that ends with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let root = probe::open_cgroup(None).unwrap();
        let root = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).unwrap();
        let path = root.join(format!("proxy-attachments-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> File {
        File::open(&self.0).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn socket_hooks_are_put_back() {
    with("sockets", |fixture| {
        let cgroup = Cgroup::new();
        let folder = cgroup.open();
        let mut attachments = fixture.attachments(TcMode::Tcx);
        assert_eq!(
            repairs(&attachments.reconcile_sockets(&folder)),
            [],
            "all is new"
        );
        assert_eq!(repairs(&attachments.reconcile_sockets(&folder)), []);
        let of_connect4 = || -> LinkInfo { object::info(fixture.link("cgroup-connect4")).unwrap() };
        let before = of_connect4();
        let expected = [(Kind::Cgroup, "connect4")];

        link::detach(fixture.link("cgroup-connect4")).unwrap();
        assert_eq!(of_connect4().detail, 0, "it is on no cgroup");
        assert_eq!(repairs(&attachments.reconcile_sockets(&folder)), expected);
        assert_eq!(of_connect4().detail, before.detail);
        assert_eq!(of_connect4().program, before.program);
        assert_eq!(repairs(&attachments.reconcile_sockets(&folder)), []);

        // A second load stands for another component's program of the same kind.
        let others = fixture.programs();
        let connect4 = SOCKET_HOOKS
            .into_iter()
            .find(|hook| hook.name == "connect4");
        let other = others.fd(ProgramName::Socket(connect4.unwrap())).unwrap();
        link::update(fixture.link("cgroup-connect4"), other).unwrap();
        assert_ne!(of_connect4().program, before.program);
        assert_eq!(repairs(&attachments.reconcile_sockets(&folder)), expected);
        assert_eq!(of_connect4().program, before.program);

        // Pins are looked at with the devices.
        let id = of_connect4().id;
        fs::remove_file(fixture.pins.link("cgroup-connect4")).unwrap();
        assert_eq!(repairs(&attachments.reconcile_sockets(&folder)), []);
        let expected = [(Kind::LinkPin, "cgroup-connect4")];
        assert_eq!(repairs(&attachments.reconcile(&[].into())), expected);
        assert_eq!(of_connect4().id, id);

        // A cgroup that was removed and made again under its name.
        fs::remove_dir(&cgroup.0).unwrap();
        fs::create_dir(&cgroup.0).unwrap();
        let findings = attachments.reconcile_sockets(&cgroup.open());
        assert_eq!(repairs(&findings).len(), SOCKET_HOOKS.len());
    });
}
