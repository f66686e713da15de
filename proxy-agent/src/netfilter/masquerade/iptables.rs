//! Rules at the head of POSTROUTING, where there is no nft.

use std::fmt::Write as _;

use super::{
    super::iptables::{ours, specs, words},
    Masquerade, PROTOCOLS,
};

/// Arguments that list the chain.
pub(super) const LIST: [&str; 6] = ["-w", "5", "-t", "nat", "-S", CHAIN];
const CHAIN: &str = "POSTROUTING";

/// What makes the listed chain right for `iptables-restore --noflush`, in one transaction: with our rules, or, where none are
/// wanted, without any. `None`: it is. Among the rules of others ours have no place that they must keep: to the first that
/// decides goes the connection, and two components that both want to be first would never come to rest.
pub(super) fn script(listing: &str, wanted: Option<&Masquerade>) -> Option<String> {
    let specs = specs(CHAIN, listing);
    let is_there = |spec: &&String| ours(&words(spec)).is_some();
    let there: Vec<&String> = specs.iter().filter(is_there).collect();
    let comments: Vec<String> = there
        .iter()
        .filter_map(|spec| ours(&words(spec)).map(str::to_owned))
        .collect();
    let right = wanted.map(Masquerade::comments);
    if comments == right.as_ref().map_or(&[][..], |right| &right[..]) {
        return None;
    }
    let mut text = String::from("*nat\n");
    for spec in there {
        let _ = writeln!(text, "-D {CHAIN} {spec}");
    }
    if let Some(wanted) = wanted {
        for (number, protocol) in (1..).zip(PROTOCOLS) {
            let _ = writeln!(text, "-I {CHAIN} {number} {}", spec(wanted, protocol));
        }
    }
    text.push_str("COMMIT\n");
    Some(text)
}

fn spec(wanted: &Masquerade, protocol: &str) -> String {
    let comment = wanted.comment(protocol);
    let Masquerade { mark, ports } = wanted;
    let (first, last) = (ports.first, ports.last);
    format!(
        "-p {protocol} -m comment --comment \"{comment}\" -m mark --mark {mark:#x}/{mark:#x} \
         -j MASQUERADE --to-ports {first}-{last} --random-fully"
    )
}

#[cfg(test)]
mod tests {
    use super::{super::EXAMPLE, *};

    const OTHERS: &str = "-P POSTROUTING ACCEPT\n-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE\n";

    /// A chain as it is listed: what others have in it, and ours.
    fn listing(rules: &[String]) -> String {
        let lines = rules.iter().map(|spec| format!("-A POSTROUTING {spec}\n"));
        OTHERS.to_owned() + &lines.collect::<String>()
    }

    fn ours() -> [String; 3] {
        PROTOCOLS.map(|protocol| spec(&EXAMPLE, protocol))
    }

    #[test]
    fn rules_go_to_the_head_of_the_chain() {
        let spec = |protocol| {
            format!(
                "-p {protocol} -m comment --comment \"kube-proxy-ebpf: masquerade {protocol}, mark 0x4, ports 1024-29999\" \
                 -m mark --mark 0x4/0x4 -j MASQUERADE --to-ports 1024-29999 --random-fully"
            )
        };
        let [tcp, udp, sctp] = PROTOCOLS.map(spec);
        assert_eq!(
            script(OTHERS, Some(&EXAMPLE)).expect("they are missing"),
            format!(
                "*nat\n-I POSTROUTING 1 {tcp}\n-I POSTROUTING 2 {udp}\n-I POSTROUTING 3 {sctp}\nCOMMIT\n"
            )
        );
    }

    #[test]
    fn what_is_there_stays_wherever_it_is() {
        assert_eq!(script(&listing(&ours()), Some(&EXAMPLE)), None);
        assert_eq!(script(OTHERS, None), None);
    }

    #[test]
    fn what_is_not_right_is_made_anew() {
        let [tcp, udp, sctp] = ours();
        let other = Masquerade {
            mark: 0x8,
            ..EXAMPLE
        };
        for left in [
            vec![tcp.clone(), udp.clone()],
            vec![udp, tcp.clone(), sctp],
            [ours(), ours()].concat(),
            PROTOCOLS.map(|protocol| spec(&other, protocol)).to_vec(),
        ] {
            let script = script(&listing(&left), Some(&EXAMPLE)).expect("it is not right");
            let lines: Vec<&str> = script.lines().collect();
            for (spec, line) in left.iter().zip(&lines[1..]) {
                assert_eq!(*line, format!("-D POSTROUTING {spec}"));
            }
            let added = &lines[1 + left.len()..];
            assert_eq!(added[0], format!("-I POSTROUTING 1 {tcp}"));
            assert_eq!((added.len(), added[3]), (4, "COMMIT"));
        }
    }

    #[test]
    fn removal_leaves_what_others_have() {
        let [tcp, udp, sctp] = ours();
        assert_eq!(
            script(&listing(&ours()), None).expect("they are there"),
            format!(
                "*nat\n-D POSTROUTING {tcp}\n-D POSTROUTING {udp}\n-D POSTROUTING {sctp}\nCOMMIT\n"
            )
        );
    }
}
