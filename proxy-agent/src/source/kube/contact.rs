//! Whether the API server can be followed, kind by kind: told when trouble begins and when it is over, not for each
//! attempt.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use super::failure::{Failure, Severity};
use crate::{
    source::pulse::{Pulse, Restart},
    telemetry::chain,
    trouble::{News, Span, Trouble},
};

/// What may happen now and then is trouble when it happens so often without a watch in between that goes on.
const STRIKES: u32 = 3;

/// What is known of the conversation.
#[derive(Debug)]
pub(super) struct Contact {
    pulse: Arc<Pulse>,
    kinds: RefCell<BTreeMap<&'static str, Kind>>,
    /// Wakes those that wait for their next attempt, when another has come through.
    through: Notify,
}

#[derive(Debug, Default)]
struct Kind {
    trouble: Trouble,
    /// Whether requests are taken and it is their answers that are wrong: then only a watch that goes on ends the trouble.
    answers_are_wrong: bool,
    strikes: u32,
}

impl Contact {
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            pulse,
            kinds: RefCell::default(),
            through: Notify::new(),
        }
    }

    /// A list is complete.
    pub(super) fn listed(&self, kind: &'static str) {
        self.pulse.listed(kind);
        self.heard(kind);
        self.opened(kind);
    }

    /// The server said something of a kind: an object, or that there is nothing new.
    pub(super) fn heard(&self, kind: &'static str) {
        self.pulse.heard(kind, Instant::now());
    }

    /// The server has taken a request.
    pub(super) fn opened(&self, kind: &'static str) {
        let wrong = |kind: &Kind| kind.answers_are_wrong;
        if !self.kinds.borrow().get(kind).is_some_and(wrong) {
            self.works(kind);
        }
    }

    /// A watch goes on as it should.
    pub(super) fn goes_on(&self, kind: &'static str) {
        if let Some(kind) = self.kinds.borrow_mut().get_mut(kind) {
            kind.strikes = 0;
        }
        self.works(kind);
    }

    /// Waits, until another kind's request has come through at most.
    pub(super) async fn wait(&self, at_most: Duration) {
        // That the time is over is the other way to end.
        let _ = timeout(at_most, self.through.notified()).await;
    }

    /// A watch has ended in its time.
    pub(super) fn ended(&self, kind: &'static str) {
        self.pulse.restarted(kind, Restart::Ended);
    }

    /// A list or watch has failed.
    pub(super) fn fails(&self, kind: &'static str, server: &str, failure: &Failure) {
        self.pulse.restarted(kind, failure.restart());
        let reason = chain(failure);
        let news = {
            let mut kinds = self.kinds.borrow_mut();
            kinds
                .entry(kind)
                .or_default()
                .fails(failure.severity(), Instant::now())
        };
        match news {
            Some(News::Begins) => tracing::warn!(
                server,
                kind,
                reason,
                "the API server can't be followed; what is programmed stays, and it is tried again"
            ),
            Some(News::GoesOn(Span { lasted, failures })) => tracing::warn!(
                server,
                kind,
                reason,
                ?lasted,
                failures,
                "the API server still can't be followed"
            ),
            None => tracing::debug!(server, kind, reason, "a list or watch is begun again"),
        }
    }

    /// Whether there is trouble with a kind.
    #[cfg(test)]
    pub(super) fn is_in_trouble(&self, kind: &str) -> bool {
        let kinds = self.kinds.borrow();
        kinds.get(kind).is_some_and(|kind| kind.trouble.is_on())
    }

    fn works(&self, kind: &'static str) {
        let mut kinds = self.kinds.borrow_mut();
        let over = kinds
            .get_mut(kind)
            .and_then(|kind| kind.works(Instant::now()));
        let Some(Span { lasted, failures }) = over else {
            return;
        };
        self.through.notify_waiters();
        if kinds.values().any(|kind| kind.trouble.is_on()) {
            tracing::info!(kind, ?lasted, failures, "this kind is followed again");
        } else {
            tracing::info!(kind, ?lasted, failures, "the API server answers again");
        }
    }
}

impl Kind {
    fn works(&mut self, now: Instant) -> Option<Span> {
        self.answers_are_wrong = false;
        self.trouble.works(now)
    }

    fn fails(&mut self, severity: Severity, now: Instant) -> Option<News> {
        match severity {
            Severity::Request => {}
            Severity::Answer => self.answers_are_wrong = true,
            Severity::NowAndThen => {
                self.strikes += 1;
                if self.strikes < STRIKES && !self.trouble.is_on() {
                    return None;
                }
                self.answers_are_wrong |= self.strikes >= STRIKES;
            }
        }
        self.trouble.fails(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact() -> Contact {
        Contact::new(Arc::new(Pulse::new(&["Service", "Node"])))
    }

    /// Whether there is trouble with Services.
    fn is_on(contact: &Contact) -> bool {
        contact.is_in_trouble("Service")
    }

    #[test]
    fn a_server_that_does_not_answer_is_trouble_until_it_takes_a_request() {
        let contact = contact();
        contact.fails("Service", "", &Failure::NoAnswer(Duration::ZERO));
        assert!(is_on(&contact));
        contact.opened("Node");
        assert!(is_on(&contact));
        contact.opened("Service");
        assert!(!is_on(&contact));
    }

    #[test]
    fn wrong_answers_are_trouble_until_a_watch_goes_on() {
        let contact = contact();
        contact.fails("Service", "", &Failure::Unreadable("<html>".to_owned()));
        assert!(is_on(&contact));
        // The next request is taken, and answered in the same way.
        contact.listed("Service");
        assert!(is_on(&contact));
        contact.goes_on("Service");
        assert!(!is_on(&contact));
    }

    #[test]
    fn silence_is_trouble_when_the_next_watch_is_silent_too_or_is_not_opened() {
        let quiet = Failure::Quiet(Duration::ZERO);
        let contact = contact();
        contact.fails("Service", "", &quiet);
        contact.opened("Service");
        assert!(!is_on(&contact));
        contact.fails("Service", "", &Failure::Silent(Duration::ZERO));
        contact.opened("Service");
        assert!(is_on(&contact));
        contact.goes_on("Service");
        // Any number of times, as long as a watch in between goes on.
        for _ in 0..10 {
            contact.fails("Service", "", &quiet);
            assert!(!is_on(&contact));
            contact.goes_on("Service");
        }
        contact.fails("Service", "", &quiet);
        contact.fails("Service", "", &Failure::NoAnswer(Duration::ZERO));
        assert!(is_on(&contact));
    }

    #[test]
    fn what_happens_now_and_then_is_trouble_when_it_happens_again_and_again() {
        let contact = contact();
        for _ in 0..10 {
            contact.fails("Service", "", &Failure::Unfinished);
            contact.opened("Service");
            contact.fails("Service", "", &Failure::ClosedEarly);
            assert!(!is_on(&contact));
            contact.goes_on("Service");
        }
        for strike in 1..=STRIKES {
            contact.fails("Service", "", &Failure::ClosedEarly);
            contact.listed("Service");
            assert_eq!(is_on(&contact), strike == STRIKES);
        }
        contact.goes_on("Service");
        assert!(!is_on(&contact));
    }

    #[tokio::test]
    async fn who_comes_through_wakes_the_others() {
        let contact = contact();
        let waits = async |at_most| {
            let began = Instant::now();
            tokio::join!(contact.wait(at_most), async { contact.opened("Node") });
            began.elapsed()
        };
        let shortly = Duration::from_millis(50);
        assert!(waits(shortly).await >= shortly, "it was not away");
        contact.fails("Service", "", &Failure::NoAnswer(shortly));
        contact.fails("Node", "", &Failure::NoAnswer(shortly));
        let long = Duration::from_mins(1);
        assert!(waits(long).await < long);
    }
}
