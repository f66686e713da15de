//! Suggestions for misspelt names.

/// Longest text that is compared, in bytes. The comparison takes time and memory that grow with the length, and a longer text is no
/// misspelt name.
const LONGEST: usize = 100;

/// The known name that is most similar to a text, if it is similar enough.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > LONGEST {
        return None;
    }
    let distance = |name: &&str| strsim::damerau_levenshtein(text, name);
    let name = known.into_iter().min_by_key(distance)?;
    (distance(&name) <= text.len().max(name.len()) / 3).then_some(name)
}

/// The same as the end of a sentence.
pub fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, known).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_name_is_not_compared() {
        let name = "n".repeat(LONGEST);
        assert_eq!(nearest(&name[1..], [name.as_str()]), Some(name.as_str()));
        let longer = format!("{name}n");
        assert_eq!(nearest(&longer, [name.as_str()]), None);
    }
}
