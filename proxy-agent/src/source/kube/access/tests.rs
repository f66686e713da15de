//! Which address is taken, and whose name.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;

/// A folder of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("kube-access-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As kubeadm leaves it in the `ConfigMap` kube-proxy.
fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: https://other.example:6443
  name: other
- cluster:
    server: {server}
  name: default
contexts:
- context: {{cluster: default, namespace: default, user: default}}
  name: default
current-context: default
users:
- name: default
  user: {{token: abc}}
"
    )
}

fn servers(access: &Access, attempts: usize) -> Vec<String> {
    (0..attempts)
        .map(|attempt| {
            let config = access.config(attempt, &Pace::default()).unwrap();
            config.cluster_url.to_string()
        })
        .collect()
}

fn outside(dir: &Dir) -> Access {
    Access {
        kubeconfig: None,
        server: None,
        server_from: vec![dir.0.join("kubeconfig.conf")],
        service_account: dir.0.join("serviceaccount"),
        service: None,
    }
}

fn pod(dir: &Dir) -> Access {
    fs::create_dir_all(dir.0.join("serviceaccount")).unwrap();
    dir.write("serviceaccount/token", "secret");
    Access {
        service: kubernetes_service(Some("10.96.0.1".to_owned()), Some("443".to_owned())),
        ..outside(dir)
    }
}

#[test]
fn in_a_pod_kube_proxys_own_address_goes_before_the_kubernetes_service() {
    let dir = Dir::new();
    let access = pod(&dir);
    assert_eq!(servers(&access, 2), ["https://10.96.0.1:443/"; 2]);
    dir.write("kubeconfig.conf", &kubeconfig("https://172.30.0.10:6443"));
    // In turns: one of them may be wrong by now.
    assert_eq!(
        servers(&access, 3),
        [
            "https://172.30.0.10:6443/",
            "https://10.96.0.1:443/",
            "https://172.30.0.10:6443/"
        ]
    );
    let config = access.config(0, &Pace::default()).unwrap();
    let token = dir.0.join("serviceaccount/token");
    assert_eq!(
        config.auth_info.token_file,
        Some(token.display().to_string())
    );
    assert_eq!((config.root_cert, config.root_cert_file), (None, None));
    let authority = dir.write("serviceaccount/ca.crt", "");
    let config = access.config(0, &Pace::default()).unwrap();
    // The image has no certificates of a system: the client must not look for them.
    assert_eq!(config.root_cert, Some(Vec::new()));
    assert_eq!(config.root_cert_file, Some(authority));
}

#[test]
fn a_file_that_is_broken_or_names_no_server_is_passed_over() {
    let dir = Dir::new();
    let access = pod(&dir);
    for text in ["{", "", "clusters: []", &kubeconfig("not a url")] {
        dir.write("kubeconfig.conf", text);
        assert_eq!(servers(&access, 2), ["https://10.96.0.1:443/"; 2], "{text}");
    }
}

#[test]
fn the_given_address_goes_before_all() {
    let dir = Dir::new();
    let server = Some(server_url("https://lb.example:8443").unwrap());
    let path = dir.write("kubeconfig.conf", &kubeconfig("https://172.30.0.10:6443"));
    for access in [pod(&dir), outside(&dir)] {
        let access = Access {
            server: server.clone(),
            ..access
        };
        assert_eq!(servers(&access, 2), ["https://lb.example:8443/"; 2]);
    }
    let access = Access {
        server,
        kubeconfig: Some(path.clone()),
        ..pod(&dir)
    };
    assert_eq!(servers(&access, 2), ["https://lb.example:8443/"; 2]);
    let access = Access {
        kubeconfig: Some(path),
        ..pod(&dir)
    };
    assert_eq!(servers(&access, 2), ["https://172.30.0.10:6443/"; 2]);
    let config = access.config(0, &Pace::default()).unwrap();
    assert_eq!(config.auth_info.token_file, None);
    assert!(config.auth_info.token.is_some());
    assert!(!config.default_retry);
}

#[test]
fn without_any_way_it_is_said() {
    let dir = Dir::new();
    let error = outside(&dir).config(0, &Pace::default()).unwrap_err();
    assert!(error.to_string().contains("--api-server"), "{error}");
    let access = Access {
        kubeconfig: Some(dir.0.join("missing")),
        ..outside(&dir)
    };
    let error = access.config(0, &Pace::default()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn addresses_are_read_as_kube_proxy_reads_them() {
    let url = |text: &str| server_url(text).map(|url| url.to_string());
    assert_eq!(url("10.0.0.1:6443").unwrap(), "https://10.0.0.1:6443/");
    assert_eq!(url("http://[::1]:8080").unwrap(), "http://[::1]:8080/");
    for wrong in ["", "https://", "ftp://x", "unix:///x"] {
        assert!(url(wrong).is_err(), "{wrong}");
    }
    let service = |host: &str| kubernetes_service(Some(host.to_owned()), Some("443".to_owned()));
    assert_eq!(
        service("fd00::1").unwrap().to_string(),
        "https://[fd00::1]:443/"
    );
}
