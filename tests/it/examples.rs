//! The programs under `examples/` do what they say.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hifz::{Cache, Namespace};

#[path = "../../examples/repository.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod repository;
#[path = "../../examples/response_cache.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod response_cache;

#[test]
fn four_hundred_reads_and_three_writes_ask_the_repository_once_for_each_state() {
    let asked = runtime().block_on(repository::tour()).unwrap();
    assert_eq!(asked, 6);
}

#[test]
fn an_axum_app_with_the_layer_makes_a_report_once_and_sees_a_change_at_once() {
    let runtime = runtime();
    let reports = Arc::new(response_cache::Reports::default());
    let cache = Cache::builder().memory(16 << 20).open().unwrap();
    let app = response_cache::app(&cache, Namespace::parse("reports").unwrap(), reports.clone());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let ask = |method: &str, path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.to_ascii_lowercase()
    };
    let callers: Vec<_> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..20).map(|_| scope.spawn(|| ask("GET", "/report/2"))).collect();
        spawned.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(callers.iter().all(|answer| answer.ends_with("report 2, made as number 1\n")));
    assert_eq!(reports.made.load(Ordering::SeqCst), 1);
    let hit = ask("GET", "/report/2");
    assert!(hit.contains("cache-status: hifz; hit; ttl=") && hit.contains("content-length: 27\r\n"), "{hit}");
    let head = ask("HEAD", "/report/2");
    assert!(head.ends_with("\r\n\r\n") && head.contains("content-length: 27\r\n"), "{head}");
    assert!(ask("POST", "/report/2").ends_with("report 2 has changed\n"));
    assert!(ask("GET", "/report/2").ends_with("made as number 2\n"));
    for _ in 0..2 {
        assert!(ask("GET", "/me").contains("cache-status: hifz; fwd=bypass; detail=private\r\n"));
    }
    assert!(ask("GET", "/nowhere").starts_with("http/1.1 404"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
