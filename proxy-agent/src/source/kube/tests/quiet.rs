//! A server that is there and has nothing to say, and one that is not there any more.

use std::{sync::Arc, time::Instant};

use super::*;
use crate::source::pulse::{Pulse, Restart};

/// After so long a watch is silent.
const SILENCE: Duration = Duration::from_secs(1);

/// A server, and what a watch of Services needs.
struct Bench {
    server: Server,
    connector: Connector,
    contact: Contact,
    pulse: Arc<Pulse>,
}

impl Bench {
    async fn new(change: impl FnOnce(&mut Pace)) -> Self {
        let server = Server::start().await;
        let mut cluster = cluster(&format!("http://{}", server.address));
        cluster.pace.calm = Duration::ZERO;
        cluster.pace.silence = SILENCE;
        change(&mut cluster.pace);
        let pulse = Arc::new(Pulse::new(&KINDS));
        Self {
            server,
            connector: Connector::new(cluster.access, cluster.pace),
            contact: Contact::new(Arc::clone(&pulse)),
            pulse,
        }
    }

    /// Follows Services during a dialogue.
    async fn follow(
        mut self,
        parts: mpsc::Sender<merge::Part>,
        dialogue: impl AsyncFnOnce(&mut Server, &Pulse, &dyn Fn() -> bool),
    ) {
        let watch = Watch::<Service>::new(&self.connector, &self.contact, parts, None);
        let is_in_trouble = || self.contact.is_in_trouble(Service::KIND);
        tokio::select! {
            () = watch.run() => panic!("it is not followed any more"),
            () = dialogue(&mut self.server, &self.pulse, &is_in_trouble) => {}
        }
    }
}

/// How often a watch was begun again for a reason.
fn restarts(pulse: &Pulse, why: Restart) -> u64 {
    let of = |(kind, reason, _): &(&str, Restart, u64)| *kind == Service::KIND && *reason == why;
    pulse.restarts().find(of).unwrap().2
}

/// How long ago Services were heard of.
fn age(pulse: &Pulse) -> Duration {
    let of = |(kind, _): &(&str, Option<Duration>)| *kind == Service::KIND;
    pulse.ages(Instant::now()).find(of).unwrap().1.unwrap()
}

/// Whether the server is to end the watch before its silence is noticed.
fn is_brief(watch: &Exchange) -> bool {
    let seconds: u64 = watch.asks("timeoutSeconds").unwrap().parse().unwrap();
    assert!(seconds >= 60, "{seconds}");
    seconds <= 75
}

/// For longer than the silence that is waited for, an API server may send nothing, not even a bookmark.
#[tokio::test]
async fn a_server_that_is_only_quiet_is_no_trouble_and_is_heard_of() {
    let bench = Bench::new(|_| {}).await;
    let (parts, _told) = mpsc::channel(100);
    let dialogue = async |server: &mut Server, pulse: &Pulse, is_in_trouble: &dyn Fn() -> bool| {
        let first = server.request(SERVICES).await;
        assert!(!is_brief(&first), "a list may take longer");
        let first = first.stream();
        first.listed("10");
        let mut watch = server.request(SERVICES).await;
        for times in 1..=3 {
            assert!(watch.is_watch_after("10"), "{:?}", watch.query);
            assert!(is_brief(&watch));
            let stream = watch.stream();
            tokio::time::sleep(SILENCE / 4).await;
            stream.end();
            watch = server.request(SERVICES).await;
            assert_eq!(restarts(pulse, Restart::Ended), times);
            assert!(age(pulse) < SILENCE / 4, "{:?}", age(pulse));
            assert!(!is_in_trouble());
        }
        assert_eq!(restarts(pulse, Restart::Timeout), 1);
        // One that sends bookmarks need not end its watches so soon.
        let stream = watch.stream();
        stream.bookmark("11");
        tokio::time::sleep(SILENCE / 4).await;
        stream.end();
        let watch = server.request(SERVICES).await;
        assert!(watch.is_watch_after("11") && !is_brief(&watch));
        // Silent for the first time again.
        let _silent = watch.stream();
        let watch = server.request(SERVICES).await;
        assert_eq!(restarts(pulse, Restart::Timeout), 2);
        assert!(is_brief(&watch) && !is_in_trouble());
        // After a list, too.
        watch.refuse(410, "Expired");
        let list = server.request(SERVICES).await.stream();
        list.listed("20");
        assert!(server.request(SERVICES).await.is_watch_after("20"));
        assert_eq!(restarts(pulse, Restart::Timeout), 3);
        assert!(!is_in_trouble());
    };
    bench.follow(parts, dialogue).await;
}

/// A proxy in between that takes requests, and whose server is gone.
#[tokio::test]
async fn who_opens_watches_and_never_ends_them_is_trouble() {
    let bench = Bench::new(|pace| {
        pace.retry = (Duration::from_millis(200), Duration::from_mins(1));
    })
    .await;
    let (parts, _told) = mpsc::channel(100);
    let dialogue = async |server: &mut Server, pulse: &Pulse, is_in_trouble: &dyn Fn() -> bool| {
        let mut silent = vec![server.request(SERVICES).await.stream()];
        silent[0].listed("10");
        let mut opened = Instant::now();
        for times in 1..=4 {
            let watch = server.request(SERVICES).await;
            // It answered: nothing is waited for ever longer.
            let waited = opened.elapsed().saturating_sub(SILENCE);
            assert!(waited < Duration::from_millis(700), "{times}: {waited:?}");
            opened = Instant::now();
            silent.push(watch.stream());
            assert_eq!(restarts(pulse, Restart::Timeout), times);
            assert_eq!(is_in_trouble(), times > 1, "{times}");
            assert!(age(pulse) >= SILENCE * u32::try_from(times).unwrap());
        }
        let watch = server.request(SERVICES).await.stream();
        watch.bookmark("11");
        while is_in_trouble() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    bench.follow(parts, dialogue).await;
}

/// When those that read are busy, the server is not silent.
#[tokio::test]
async fn what_waits_to_be_taken_is_no_silence() {
    let bench = Bench::new(|_| {}).await;
    let (parts, mut told) = mpsc::channel(1);
    let dialogue = async |server: &mut Server, pulse: &Pulse, _: &dyn Fn() -> bool| {
        let stream = server.request(SERVICES).await.stream();
        stream.listed("10");
        tokio::time::sleep(SILENCE / 10).await;
        // The first part waits, so this one can't be sent.
        stream.added(&service("a", "10.96.0.1", "11"));
        tokio::time::sleep(SILENCE * 3 / 2).await;
        for _ in 0..2 {
            told.recv().await.unwrap();
        }
        tokio::time::sleep(SILENCE / 4).await;
        assert_eq!(restarts(pulse, Restart::Timeout), 0);
        stream.added(&service("b", "10.96.0.2", "12"));
        told.recv().await.unwrap();
    };
    bench.follow(parts, dialogue).await;
}

/// A proxy in between may break every list that is streamed.
#[tokio::test]
async fn streamed_lists_that_never_complete_are_asked_for_differently() {
    let bench = Bench::new(|pace| pace.listing = A_WHILE).await;
    let (parts, _told) = mpsc::channel(100);
    let dialogue = async |server: &mut Server, _: &Pulse, _: &dyn Fn() -> bool| {
        for round in 0..2 {
            let mut streams = Vec::new();
            for failure in 0..3 {
                let list = server.request(SERVICES).await;
                assert!(list.is_listing_watch(), "{round}: {:?}", list.query);
                let stream = list.stream();
                match failure {
                    0 => stream.end(),
                    1 => stream.cut().await,
                    // It says nothing.
                    _ => streams.push(stream),
                }
            }
            // A plain one, also if the first is refused.
            let list = server.request(SERVICES).await;
            assert_eq!(list.asks("watch"), None, "{round}");
            list.refuse(503, "ServiceUnavailable");
            let list = server.request(SERVICES).await;
            assert_eq!(list.asks("watch"), None, "{round}");
            list.list("10", None, &[service("a", "10.96.0.1", "8")]);
            // The next one is streamed again.
            let watch = server.request(SERVICES).await;
            assert!(watch.is_watch_after("10"), "{round}: {:?}", watch.query);
            watch.refuse(410, "Expired");
        }
    };
    bench.follow(parts, dialogue).await;
}
