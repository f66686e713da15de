//! The chain FORWARD as `iptables -S` lists it, and changes of it for `iptables-restore`.

use std::fmt::Write as _;

use super::{
    super::iptables::{self, words},
    Accept,
    chain::{Chain, Edit, Effect},
};

/// A listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub chain: Chain,
    /// The rules as listed, each without its `-A FORWARD `.
    specs: Vec<String>,
}

/// Reads what `iptables -S FORWARD` wrote.
pub(super) fn parse(text: &str) -> Listing {
    let specs = iptables::specs("FORWARD", text);
    Listing {
        chain: Chain {
            refuses: text.lines().any(|line| line.trim() == "-P FORWARD DROP"),
            rules: specs.iter().map(|spec| effect(spec)).collect(),
        },
        specs,
    }
}

fn effect(spec: &str) -> Effect {
    let words = words(spec);
    if let Some(comment) = iptables::ours(&words) {
        return Effect::Ours(comment.to_owned());
    }
    let mut words = words.iter().map(String::as_str);
    let mut conditional = false;
    while let Some(word) = words.next() {
        match word {
            "--comment" => drop(words.next()),
            "-m" => conditional |= words.next() != Some("comment"),
            "-j" if !conditional => {
                return match words.next() {
                    Some("DROP" | "REJECT") => Effect::Refuses,
                    Some("ACCEPT") => Effect::Accepts,
                    Some("RETURN") => Effect::Returns,
                    Some("LOG" | "NFLOG" | "ULOG") => Effect::Logs,
                    _ => Effect::Other,
                };
            }
            _ => conditional = true,
        }
    }
    Effect::Other
}

/// What `iptables-restore --noflush` makes an edit by, in one transaction.
pub(super) fn script(listing: &Listing, edit: &Edit, accepts: &[Accept]) -> String {
    let mut text = String::from("*filter\n");
    for spec in edit.remove.iter().filter_map(|&at| listing.specs.get(at)) {
        let _ = writeln!(text, "-D FORWARD {spec}");
    }
    let others = listing.specs.len() - edit.remove.len();
    for (accept, number) in accepts.iter().zip(1..) {
        let spec = spec(*accept);
        let _ = match edit.insert {
            None => Ok(()),
            // Also if others add rules meanwhile, it is the end.
            Some(at) if at == others => writeln!(text, "-A FORWARD {spec}"),
            Some(at) => writeln!(text, "-I FORWARD {} {spec}", at + number),
        };
    }
    text.push_str("COMMIT\n");
    text
}

fn spec(accept: Accept) -> String {
    let comment = accept.comment();
    let matches = match accept {
        Accept::Translated(mark) => format!("-m mark --mark {mark:#x}/{mark:#x}"),
        Accept::Replies => "-m conntrack --ctstate RELATED,ESTABLISHED".to_owned(),
    };
    format!("-m comment --comment \"{comment}\" {matches} -j ACCEPT")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: u32 = 0x40;

    fn comments() -> [String; 2] {
        Accept::all(MARK).map(Accept::comment)
    }

    #[test]
    fn rules_are_known_by_what_they_do_to_every_packet() {
        for (spec, expected) in [
            ("-j DROP", Effect::Refuses),
            (
                "-j REJECT --reject-with icmp-host-prohibited",
                Effect::Refuses,
            ),
            (
                "-m comment --comment \"the rest, -j ACCEPT \\\" no\" -j DROP",
                Effect::Refuses,
            ),
            ("-j ACCEPT", Effect::Accepts),
            ("-j RETURN", Effect::Returns),
            ("-j LOG --log-prefix \"forward: \"", Effect::Logs),
            ("-j NFLOG", Effect::Logs),
            ("-i eth0 -j DROP", Effect::Other),
            ("! -i lo -j DROP", Effect::Other),
            ("-m conntrack --ctstate INVALID -j DROP", Effect::Other),
            ("-j DOCKER-USER", Effect::Other),
            ("-g cali-FORWARD", Effect::Other),
            ("-m comment --comment \"count\"", Effect::Other),
            (
                "-m mark --mark 0x40/0x40 -m comment --comment \"kube-proxy-ebpf: translated, mark 0x40\" -j ACCEPT",
                Effect::Ours("kube-proxy-ebpf: translated, mark 0x40".to_owned()),
            ),
        ] {
            assert_eq!(effect(spec), expected, "{spec}");
        }
    }

    /// What we write is read back as ours.
    #[test]
    fn our_rules_are_known_again() {
        let listed = |accept| format!("-A FORWARD {}\n", spec(accept));
        let text: String = Accept::all(MARK).map(listed).concat();
        let listing = parse(&format!("-P FORWARD DROP\n{text}"));
        assert!(listing.chain.refuses);
        assert_eq!(listing.chain.rules, comments().map(Effect::Ours));
        assert_eq!(listing.chain.edit(&comments()), None);
    }

    #[test]
    fn behind_docker_and_before_a_reject() {
        let docker = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n";
        let ours = Accept::all(MARK);
        let specs = ours.map(spec);
        let listing = parse(docker);
        let edit = listing.chain.edit(&comments()).unwrap();
        assert_eq!(
            script(&listing, &edit, &ours),
            format!(
                "*filter\n-A FORWARD {}\n-A FORWARD {}\nCOMMIT\n",
                specs[0], specs[1]
            )
        );

        // With one of ours left over, behind the end.
        let rejects = format!(
            "-P FORWARD ACCEPT\n-A FORWARD -j POLICY\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\n-A FORWARD {}\n",
            specs[1]
        );
        let listing = parse(&rejects);
        let edit = listing.chain.edit(&comments()).unwrap();
        assert_eq!(
            script(&listing, &edit, &ours),
            format!(
                "*filter\n-D FORWARD {}\n-I FORWARD 2 {}\n-I FORWARD 3 {}\nCOMMIT\n",
                specs[1], specs[0], specs[1]
            )
        );
    }

    #[test]
    fn removal() {
        let specs = Accept::all(MARK).map(spec);
        let text = format!(
            "-P FORWARD DROP\n-A FORWARD {}\n-A FORWARD {}\n-A FORWARD -j X\n",
            specs[0], specs[1]
        );
        let listing = parse(&text);
        let edit = listing.chain.edit(&[]).unwrap();
        assert_eq!(
            script(&listing, &edit, &[]),
            format!(
                "*filter\n-D FORWARD {}\n-D FORWARD {}\nCOMMIT\n",
                specs[0], specs[1]
            )
        );
    }
}
