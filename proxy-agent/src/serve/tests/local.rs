//! The Unix socket, while another process holds the port.

use std::path::Path;

use super::*;

#[test]
fn h2_the_agent_answers_for_itself_where_another_has_its_port() {
    let bpffs = PathBuf::from(format!("/test/{}", std::process::id()));
    assert!(
        crate::serve::local::ask(&bpffs, "/livez").is_err(),
        "nobody is there"
    );
    // As kube-proxy does before it is removed.
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (at, metrics) = (
        squatter.local_addr().unwrap(),
        Arc::new(Metrics::new().unwrap()),
    );
    let health = Arc::new(Health::new(Instant::now()));
    let checks = watch::Sender::new(Checks::default());
    let config = ServeConfig {
        healthz: Some(at),
        local: Some(bpffs.clone()),
        ..ServeConfig::default()
    };
    let shown = Shown {
        health: Arc::clone(&health),
        metrics,
        checks: checks.subscribe(),
        problems: mpsc::unbounded_channel().0,
    };
    start(&config, shown).unwrap();
    let ask = |path: &str| crate::serve::local::ask(&bpffs, path);
    eventually("it answers", || ask("/livez").is_ok());
    let same = bpffs.join("");
    assert!(
        crate::serve::local::ask(&same, "/livez").is_ok(),
        "{same:?}"
    );
    let answers = || ["/livez", "/readyz"].map(|path| ask(path).unwrap().ok);
    assert_eq!(answers(), [true, false]);
    health.caught_up(Timestamp::now(), 0);
    assert_eq!(answers(), [true, true]);
    assert!(
        ask("/readyz")
            .unwrap()
            .body
            .contains("\"state\":\"serving\"")
    );
    // Another agent has another name.
    assert!(crate::serve::local::ask(Path::new("/test/elsewhere"), "/livez").is_err());
    drop(checks);
    eventually("it ends with the loop", || ask("/livez").is_err());
}
