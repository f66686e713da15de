//! A folder of objects that agents follow (`--source file:DIR`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{LabError, Result};

/// The folder. Files appear and change in one step (rename), as careful writers do it.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    drafts: PathBuf,
}

impl Folder {
    /// Makes a folder, and one beside it for drafts.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let made = Self::at(path);
        for folder in [&made.path, &made.drafts] {
            std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        }
        Ok(made)
    }

    /// A folder that is there.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let drafts = path.with_extension("drafts");
        Self { path, drafts }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes an object to a file named by its kind, namespace and name. Replaces an earlier version.
    pub fn put(&self, object: impl Into<Value>) -> Result<()> {
        let object = object.into();
        self.write(&file_name(&object), &format!("{object:#}\n"))
    }

    /// Writes several objects, file by file.
    pub fn put_all<O: Into<Value>>(&self, objects: impl IntoIterator<Item = O>) -> Result<()> {
        objects.into_iter().try_for_each(|object| self.put(object))
    }

    /// Writes several objects into one file: they appear together.
    pub fn put_together<O: Into<Value>>(
        &self,
        file: &str,
        objects: impl IntoIterator<Item = O>,
    ) -> Result<()> {
        let documents: Vec<_> = objects
            .into_iter()
            .map(|object| format!("{:#}\n", object.into()))
            .collect();
        self.write(file, &documents.join("---\n"))
    }

    /// Writes any text to a file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let (draft, path) = (self.drafts.join(file), self.path.join(file));
        std::fs::write(&draft, text).map_err(LabError::file("writing", &draft))?;
        std::fs::rename(&draft, &path).map_err(LabError::file("writing", path))
    }

    /// Every object of every `.yaml` file, by the files' names.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let entries =
            std::fs::read_dir(&self.path).map_err(LabError::file("reading", &self.path))?;
        let mut files = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(LabError::file("reading", &self.path))?;
        files.retain(|path| is_yaml(path));
        files.sort();
        let mut objects = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(LabError::file("reading", &file))?;
            let read: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
                LabError::file("reading", &file)(std::io::Error::other(error.to_string()))
            })?;
            objects.extend(read.into_iter().filter(Value::is_object));
        }
        Ok(objects)
    }

    /// Removes the file of an object's kind, namespace and name.
    pub fn remove(&self, object: impl Into<Value>) -> Result<()> {
        self.remove_file(&file_name(&object.into()))
    }

    /// Removes a file.
    pub fn remove_file(&self, file: &str) -> Result<()> {
        let path = self.path.join(file);
        std::fs::remove_file(&path).map_err(LabError::file("removing", path))
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn file_name(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
    let metadata = &object["metadata"];
    let words = [
        word(&object["kind"]),
        word(&metadata["namespace"]),
        word(&metadata["name"]),
    ];
    let present: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
    format!("{}.yaml", present.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_their_objects() {
        let service = serde_json::json!({"kind": "Service", "metadata": {"namespace": "ml", "name": "mlflow"}});
        assert_eq!(file_name(&service), "service.ml.mlflow.yaml");
        let node = serde_json::json!({"kind": "Node", "metadata": {"name": "worker-1"}});
        assert_eq!(file_name(&node), "node.worker-1.yaml");
    }
}
