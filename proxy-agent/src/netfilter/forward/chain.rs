//! Where in a chain our rules belong.

/// What a rule does, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// One of ours, with its comment.
    Ours(String),
    /// Drops or rejects every packet.
    Refuses,
    /// Accepts every packet.
    Accepts,
    /// Leaves all else to the policy.
    Returns,
    /// Logs every packet, and goes on.
    Logs,
    /// Anything else, jumps to other components' chains among it.
    Other,
}

/// A chain that all forwarded packets pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The policy is to drop.
    pub refuses: bool,
    /// From first to last.
    pub rules: Vec<Effect>,
}

/// What to change, in one transaction: first remove, then insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    /// Our rules that are there, as indices of [`Chain::rules`], from first to last.
    pub remove: Vec<usize>,
    /// The place of all our rules, counted among the others' rules: before the one of this index, or behind the last.
    pub insert: Option<usize>,
}

impl Chain {
    /// What makes the chain right: with rules of ours with these comments, where the chain would refuse packets,
    /// just before it does; without any otherwise. `None`: it is.
    pub fn edit(&self, wanted: &[String]) -> Option<Edit> {
        let others: Vec<_> = self.rules.iter().filter(|rule| !is_ours(rule)).collect();
        let place = (!wanted.is_empty()).then(|| self.place(&others)).flatten();
        let ours = wanted.iter().cloned().map(Effect::Ours);
        let mut right: Vec<Effect> = others.into_iter().cloned().collect();
        if let Some(at) = place {
            right.splice(at..at, ours);
        }
        if right == self.rules {
            return None;
        }
        let remove = self.rules.iter().enumerate();
        Some(Edit {
            remove: remove
                .filter(|(_, rule)| is_ours(rule))
                .map(|(index, _)| index)
                .collect(),
            insert: place,
        })
    }

    /// Before the rule that refuses all that came so far, and before a log of it; behind all others, so that what
    /// another component refuses by its jumps stays refused.
    fn place(&self, others: &[&Effect]) -> Option<usize> {
        let end = others
            .iter()
            .position(|rule| matches!(rule, Effect::Refuses | Effect::Accepts | Effect::Returns));
        let refuses = match end.map(|end| others[end]) {
            Some(Effect::Refuses) => true,
            Some(Effect::Accepts) => false,
            _ => self.refuses,
        };
        let end = end.unwrap_or(others.len());
        let logs = others[..end].iter().rev();
        let logs = logs.take_while(|rule| ***rule == Effect::Logs).count();
        refuses.then_some(end - logs)
    }
}

const fn is_ours(rule: &Effect) -> bool {
    matches!(rule, Effect::Ours(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain in short: `D` or `A` for the policy, then a letter for each rule.
    fn chain(text: &str) -> Chain {
        let mut letters = text.chars();
        let refuses = letters.next() == Some('D');
        let rule = |letter| match letter {
            'r' => Effect::Refuses,
            'a' => Effect::Accepts,
            'b' => Effect::Returns,
            'l' => Effect::Logs,
            'j' => Effect::Other,
            ours => Effect::Ours(ours.to_string()),
        };
        Chain {
            refuses,
            rules: letters.map(rule).collect(),
        }
    }

    fn edited(before: &str) -> Option<(Vec<usize>, Option<usize>)> {
        let wanted = ["1", "2"].map(str::to_owned);
        let edit = chain(before).edit(&wanted)?;
        Some((edit.remove, edit.insert))
    }

    #[test]
    fn a_chain_that_refuses_nothing_is_left_alone() {
        for open in ["A", "Ajjj", "Da", "Ajar", "Dja", "Ajb"] {
            assert_eq!(edited(open), None, "{open}");
        }
    }

    #[test]
    fn accepts_go_behind_everybody_elses_rules_and_before_what_refuses_all() {
        for (before, place) in [
            ("D", 0),
            ("Djj", 2),
            ("Ajr", 1),
            ("Ajjrj", 2),
            ("Ajllr", 1),
            ("Djl", 1),
            ("Aljr", 2),
            ("Djb", 1),
            ("Djrr", 1),
        ] {
            assert_eq!(edited(before), Some((vec![], Some(place))), "{before}");
        }
    }

    #[test]
    fn what_is_right_stays() {
        for right in ["D12", "Dj12", "Aj12r", "Aj12lr", "Djj12r"] {
            assert_eq!(edited(right), None, "{right}");
        }
    }

    #[test]
    fn accepts_are_placed_anew_when_the_chain_has_changed() {
        for (before, remove, place) in [
            ("D12j", vec![0, 1], 1),
            ("D1j2", vec![0, 2], 1),
            ("Djr12", vec![2, 3], 1),
            ("D1", vec![0], 0),
            ("D21", vec![0, 1], 0),
            ("D1212", vec![0, 1, 2, 3], 0),
            // With another mark.
            ("D32", vec![0, 1], 0),
        ] {
            assert_eq!(edited(before), Some((remove, Some(place))), "{before}");
        }
    }

    #[test]
    fn accepts_go_where_they_are_needed_no_more_or_not_wanted() {
        assert_eq!(edited("A12"), Some((vec![0, 1], None)));
        assert_eq!(edited("Aj12a"), Some((vec![1, 2], None)));
        let edit = chain("Dj12").edit(&[]);
        let (remove, insert) = (vec![1, 2], None);
        assert_eq!(edit, Some(Edit { remove, insert }));
        assert_eq!(chain("Dj").edit(&[]), None);
    }
}
