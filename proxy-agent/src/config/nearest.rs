//! Suggestions for misspelt names.

/// The known name that is most similar to a text, if it is similar enough.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(text, name);
    let name = known.into_iter().min_by_key(distance)?;
    (distance(&name) <= text.len().max(name.len()) / 3).then_some(name)
}

/// The same as the end of a sentence.
pub fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, known).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}
