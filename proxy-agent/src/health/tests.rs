//! The answers in each state of the agent.

use serde_json::{Value, json};

use super::*;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// An agent whose maps are as planned.
fn serving(now: Instant) -> Health {
    let health = Health::new(now);
    health.caught_up(time(0), 0);
    health
}

fn ok(health: &Health, question: Question, now: Instant) -> bool {
    health.report(question, now, time(10)).is_ok()
}

/// The source is heard.
fn hear(health: &Health, now: Instant) {
    let pulse = Pulse::new(&["Service"]);
    pulse.heard("Service", now);
    health.watch_source(Arc::new(pulse));
}

/// `lastContact`, to the second: a pulse counts in milliseconds.
fn last_contact(answer: &Value) -> Timestamp {
    let text = answer["lastContact"].as_str().unwrap();
    let contact: Timestamp = text.parse().unwrap();
    contact.round(jiff::Unit::Second).unwrap()
}

/// `/healthz`, `/livez`, `/readyz`.
fn all(health: &Health, now: Instant) -> [bool; 3] {
    [Question::Health, Question::Life, Question::Readiness]
        .map(|question| ok(health, question, now))
}

fn body(health: &Health, question: Question, now: Instant) -> Value {
    serde_json::to_value(health.report(question, now, time(10))).unwrap()
}

#[test]
fn h2_the_fields_are_kube_proxys() {
    let now = Instant::now();
    let (then, at) = ("1970-01-01T00:00:00Z", "1970-01-01T00:00:10Z");
    let family = json!({"lastUpdated": then, "healthy": true});
    let health = serving(now);
    let mut expected = json!({
        "lastUpdated": at,
        "currentTime": at,
        "nodeEligible": true,
        "healthy": true,
        "status": {"IPv4": family, "IPv6": family},
        "state": "serving",
        "servicesRefused": 0,
    });
    assert_eq!(body(&health, Question::Health, now), expected);
    hear(&health, now);
    let now = now + Duration::from_secs(5);
    expected.as_object_mut().unwrap().remove("nodeEligible");
    let mut answer = body(&health, Question::Life, now);
    assert_eq!(last_contact(&answer), time(5));
    answer.as_object_mut().unwrap().remove("lastContact");
    assert_eq!(answer, expected);
}

#[test]
fn h2_before_the_first_list_the_agent_lives_and_nothing_more() {
    let now = Instant::now();
    let health = Health::new(now);
    assert_eq!(all(&health, now), [false, true, false]);
    assert!(
        !health.is_healthy(now),
        "nor do health checks of Services pass"
    );
    let waiting = body(&health, Question::Health, now);
    assert_eq!(waiting["state"], "waiting");
    assert_eq!(waiting["healthy"], false);
    assert_eq!(waiting["lastUpdated"], "0001-01-01T00:00:00Z");
    // It may wait indefinitely, and must not be killed for that.
    let later = now + TIMEOUT * 1000;
    health.alive(later);
    assert_eq!(all(&health, later), [false, true, false]);
    health.caught_up(time(1), 0);
    assert_eq!(all(&health, later), [true; 3]);
}

#[test]
fn h2_maps_of_an_earlier_run_serve_and_are_not_ready() {
    let now = Instant::now();
    let health = Health::new(now);
    health.serves_earlier();
    assert_eq!(all(&health, now), [true, true, false]);
    assert!(health.is_healthy(now));
    let earlier = body(&health, Question::Health, now);
    assert_eq!(earlier["state"], "earlier");
    assert_eq!(
        earlier["lastUpdated"], "0001-01-01T00:00:00Z",
        "this run does not know when"
    );
    health.caught_up(time(1), 0);
    health.serves_earlier();
    assert_eq!(
        all(&health, now),
        [true; 3],
        "the first list is there for good"
    );
}

#[test]
fn h2_the_age_of_the_last_contact_changes_no_answer() {
    let start = Instant::now();
    for health in [serving(start), Health::new(start)] {
        health.serves_earlier();
        hear(&health, start);
        let before = all(&health, start);
        let days_later = start + TIMEOUT * 10_000;
        health.alive(days_later);
        assert_eq!(all(&health, days_later), before);
        assert!(before[0], "the node serves");
        let told = body(&health, Question::Health, days_later);
        assert_eq!(last_contact(&told), time(10) - TIMEOUT * 10_000);
    }
}

#[test]
fn h2_an_agent_whose_loop_has_ended_says_so_at_once() {
    let now = Instant::now();
    let health = serving(now);
    health.end();
    assert_eq!(all(&health, now), [false; 3]);
    assert!(!health.is_healthy(now));
    let ended = body(&health, Question::Life, now);
    assert_eq!(
        (&ended["state"], &ended["healthy"]),
        (&json!("ended"), &json!(false))
    );
}

#[test]
fn h2_refused_services_are_told_and_take_no_node_away() {
    let now = Instant::now();
    let health = serving(now);
    health.caught_up(time(7), 2);
    assert_eq!(all(&health, now), [true; 3]);
    let told = body(&health, Question::Health, now);
    assert_eq!(told["state"], "refusing");
    assert_eq!(told["servicesRefused"], 2);
    let then = "1970-01-01T00:00:00Z";
    assert_eq!(told["lastUpdated"], then, "the maps are not as planned");
    assert_eq!(told["status"]["IPv4"]["lastUpdated"], then);
    health.caught_up(time(8), 0);
    let told = body(&health, Question::Health, now);
    assert_eq!(told["state"], "serving");
    assert_eq!(
        told["status"]["IPv4"]["lastUpdated"],
        "1970-01-01T00:00:08Z"
    );
}

#[test]
fn h2_a_change_that_waits_for_a_minute_makes_it_unhealthy_until_it_is_programmed() {
    let start = Instant::now();
    let health = serving(start);
    health.behind(start);
    health.behind(start + TIMEOUT / 2);
    let late = start + TIMEOUT;
    health.alive(late);
    assert!(health.is_healthy(start + TIMEOUT / 4 * 3));
    assert!(
        !health.is_healthy(late),
        "what waited first counts, not what came last"
    );
    assert_eq!(all(&health, late), [false; 3]);
    let told = body(&health, Question::Health, late);
    assert_eq!(told["state"], "late");
    assert_eq!(told["lastUpdated"], "1970-01-01T00:00:00Z");
    health.caught_up(time(60), 0);
    assert_eq!(all(&health, late), [true; 3]);
}

#[test]
fn h2_a_loop_that_hangs_makes_it_unhealthy_though_nothing_is_known_to_wait() {
    let start = Instant::now();
    let health = serving(start);
    assert!(health.is_healthy(start));
    assert_eq!(all(&health, start + TIMEOUT), [false; 3]);
    assert_eq!(
        body(&health, Question::Life, start + TIMEOUT)["state"],
        "hangs"
    );
    health.alive(start + TIMEOUT);
    assert!(health.is_healthy(start + TIMEOUT));
}

#[test]
fn h2_a_node_that_is_being_deleted_fails_healthz_alone() {
    let now = Instant::now();
    let health = serving(now);
    assert!(ok(&health, Question::Health, now), "an unknown node stays");
    health.set_leaving(true);
    assert_eq!(all(&health, now), [false, true, true]);
    assert!(health.is_healthy(now), "H1 does not ask for the node");
    let told = body(&health, Question::Health, now);
    assert_eq!(
        (&told["nodeEligible"], &told["healthy"]),
        (&json!(false), &json!(true))
    );
    health.set_leaving(false);
    assert!(ok(&health, Question::Health, now));
}

#[test]
fn h2_while_a_change_waits_the_last_update_is_not_now() {
    let now = Instant::now();
    let health = serving(now);
    let updated = |health: &Health| body(health, Question::Health, now)["lastUpdated"].clone();
    assert_eq!(updated(&health), time(10).to_string());
    health.behind(now);
    assert_eq!(updated(&health), time(0).to_string());
    health.keeps_up();
    assert_eq!(updated(&health), time(10).to_string());
}
