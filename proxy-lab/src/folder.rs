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
        let path = path.into();
        let drafts = path.with_extension("drafts");
        for folder in [&path, &drafts] {
            std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        }
        Ok(Self { path, drafts })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes an object to the file of its kind, namespace and name; an earlier version is replaced.
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

    /// Copies every `.yaml` file of another folder.
    pub fn copy_from(&self, other: &Path) -> Result<()> {
        for entry in std::fs::read_dir(other).map_err(LabError::file("reading", other))? {
            let from = entry.map_err(LabError::file("reading", other))?.path();
            if let Some(name) = from
                .file_name()
                .and_then(|name| name.to_str())
                .filter(|name| is_yaml(name))
            {
                let text =
                    std::fs::read_to_string(&from).map_err(LabError::file("reading", &from))?;
                self.write(name, &text)?;
            }
        }
        Ok(())
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

fn is_yaml(name: &str) -> bool {
    Path::new(name)
        .extension()
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
