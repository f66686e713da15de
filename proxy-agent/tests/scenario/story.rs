//! `tests/scenarios/NAME.yaml`: manifests, in one stage or several.
//!
//! The first line is `# plan: ` and flags of `plan`, without `--source`. A line `# then: WHAT HAPPENS` begins another
//! stage: its objects come, or take the place of those of the same name; lines `# delete: KIND NAMESPACE/NAME` say what goes.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::Parser;
use proxy_agent::{
    commands::plan::PlanArgs,
    config::Rules,
    model::{Change, Event},
    report::Report,
};
use serde::Deserialize;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    plan: PlanArgs,
}

/// Objects, and what happens to them.
pub struct Scenario {
    /// Without `.yaml`.
    pub path: PathBuf,
    pub rules: Rules,
    /// `--node-address`.
    pub node_address: Vec<IpAddr>,
    pub stages: Vec<Stage>,
}

/// A moment at which everything is in force.
pub struct Stage {
    /// What happened.
    pub title: String,
    /// What `plan` says.
    pub report: Report,
    /// What is new since the stage before.
    pub changes: Vec<Event>,
    /// All objects.
    pub objects: Vec<Event>,
}

/// A YAML document, and which object it is of.
struct Document {
    object: Option<String>,
    text: String,
}

#[derive(Deserialize)]
struct Header {
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

/// All scenarios, by name.
pub fn all() -> Vec<Scenario> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = fs::read_dir(&dir).unwrap();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| Scenario::read(path)).collect()
}

impl Scenario {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let flags = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# plan: "));
        let flags = flags.unwrap_or_else(|| panic!("{}: no flags", path.display()));
        let folder = Folder::new();
        let source = format!("file:{}", folder.0.display());
        let arguments = ["plan", "--source", &source].into_iter();
        let arguments = arguments.chain(flags.split_whitespace());
        let args = Command::try_parse_from(arguments).unwrap().plan;
        let mut documents: Vec<Document> = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for part in split(&text, "# then: ") {
            let title = part.lines().next().unwrap_or_default();
            let title = title.strip_prefix("# then: ").unwrap_or_default();
            for object in part
                .lines()
                .filter_map(|line| line.strip_prefix("# delete: "))
            {
                let before = documents.len();
                documents.retain(|document| document.object.as_deref() != Some(object));
                assert!(documents.len() < before, "{}: no {object}", path.display());
            }
            let single = stages.is_empty();
            for text in split(part, "---") {
                put(&mut documents, text, single);
            }
            let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
            folder.write(&texts.concat());
            stages.push(Stage::new(title, &args, stages.last()));
        }
        Self {
            path: path.with_extension(""),
            rules: args.rules.check().unwrap(),
            node_address: args.node_address,
            stages,
        }
    }

    /// What is expected, or written where that is asked for: the maps after each stage.
    pub fn text(&self, dumps: &[String]) -> String {
        let stages = self.stages.iter().zip(dumps);
        let texts = stages.map(|(stage, dump)| match stage.title.as_str() {
            "" => dump.clone(),
            title => format!("\n== {title}\n{dump}"),
        });
        texts.collect()
    }

    /// Where that stands.
    pub fn expected(&self) -> PathBuf {
        self.path.with_extension("maps")
    }

    /// Name for messages.
    pub fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }
}

/// Puts a document in the place of that of the same object; of one stage, all are kept as they are.
fn put(documents: &mut Vec<Document>, text: &str, is_first: bool) {
    let object = serde_saphyr::from_str(text).ok().map(|header: Header| {
        let Header { kind, metadata } = header;
        let Metadata { name, namespace } = metadata;
        if namespace.is_empty() {
            format!("{kind} {name}")
        } else {
            format!("{kind} {namespace}/{name}")
        }
    });
    let document = Document {
        object,
        text: text.to_owned(),
    };
    let known = documents
        .iter_mut()
        .find(|known| known.object.is_some() && known.object == document.object);
    match known {
        Some(known) if !is_first => *known = document,
        _ => documents.push(document),
    }
}

/// Splits at lines that begin with a marker, which stay with what follows them.
fn split<'a>(text: &'a str, marker: &str) -> impl Iterator<Item = &'a str> {
    let mut starts = vec![0];
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if offset > 0 && line.starts_with(marker) {
            starts.push(offset);
        }
        offset += line.len();
    }
    starts.push(offset);
    let ends: Vec<usize> = starts[1..].to_vec();
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| &text[start..end])
}

/// A folder of its own, for one scenario, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("scenario-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, text: &str) {
        fs::write(self.0.join("scenario.yaml"), text).unwrap();
    }
}

impl Stage {
    /// What is in the folder now, and what `plan` makes of it.
    fn new(title: &str, args: &PlanArgs, before: Option<&Self>) -> Self {
        let source = args.rules.clone().check().unwrap().source;
        let mut objects = source.read().unwrap().events;
        objects.retain(|event| *event != Event::Synced);
        let known = before.map_or(&[][..], |stage| &stage.objects);
        let gone = known
            .iter()
            .map(deletion)
            .filter(|gone| !objects.iter().any(|object| deletion(object) == *gone));
        let new = objects.iter().filter(|object| !known.contains(object));
        Self {
            title: title.to_owned(),
            report: args.clone().report().unwrap(),
            changes: new.cloned().chain(gone).collect(),
            objects,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The end of an object.
fn deletion(event: &Event) -> Event {
    match event {
        Event::Service(Change::Upsert(service)) => {
            Event::Service(Change::Delete(service.name.clone()))
        }
        Event::Slice(Change::Upsert(slice)) => Event::Slice(Change::Delete(slice.name.clone())),
        Event::Node(Change::Upsert(node)) => Event::Node(Change::Delete(node.name.clone())),
        other => other.clone(),
    }
}
