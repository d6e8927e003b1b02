// SPDX-License-Identifier: MIT-0

//! `POST /notes` and `GET /notes/17`: a core on SQLite, and its handler.

use crate::json::{self, Failure};
use crate::{Page, ThreadPoolExecutor, or_exit, say, setting};
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};
use rusqlite::{Connection, OptionalExtension, Result as Sqlite};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

// ----- CORE -----------------------------------------------------------------

/// The notes. It knows nothing of HTTP or of async code, and it blocks.
pub struct Notes(Mutex<Connection>);

#[derive(Serialize)]
pub struct Note {
    id: i64,
    text: String,
}

impl Notes {
    /// Reads `NOTES`: the file.
    pub fn new() -> Self {
        let path = setting("NOTES", "notes.db".to_owned(), "a path", |_| true);
        or_exit(&format!("open {path}"), Self::open(&path))
    }

    fn open(path: &str) -> Sqlite<Self> {
        let db = Connection::open(path)?;
        db.execute(
            "CREATE TABLE IF NOT EXISTS notes
             (id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
            [],
        )?;
        Ok(Self(Mutex::new(db)))
    }

    /// Returns once the note is on the disk.
    fn add(&self, text: String) -> Sqlite<Note> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        db.execute("INSERT INTO notes (text) VALUES (?1)", [&text])?;
        Ok(Note { id: db.last_insert_rowid(), text })
    }

    fn get(&self, id: i64) -> Sqlite<Option<Note>> {
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let query = "SELECT text FROM notes WHERE id = ?1";
        let text = db.query_one(query, [id], |row| row.get(0)).optional()?;
        Ok(text.map(|text| Note { id, text }))
    }
}

// ----- HANDLER --------------------------------------------------------------

#[derive(Clone)]
pub struct NotesHandler {
    executor: ThreadPoolExecutor,
    notes: Arc<Notes>,
}

/// What is posted.
#[derive(Deserialize)]
pub struct NewNote {
    text: String,
}

impl NotesHandler {
    pub fn initialize(executor: ThreadPoolExecutor, notes: Notes) -> Self {
        Self { executor, notes: Arc::new(notes) }
    }

    pub async fn post(&self, new: NewNote) -> Result<Page, Failure> {
        let note = self.ask(|notes| notes.add(new.text)).await?;
        let mut page = json::answer(StatusCode::CREATED, &note);
        if let Ok(path) = HeaderValue::try_from(format!("/notes/{}", note.id)) {
            page.headers_mut().insert(LOCATION, path);
        }
        Ok(page)
    }

    /// `id` is what stands in the path, so it need not be a number.
    pub async fn get(&self, id: &str) -> Result<Page, Failure> {
        let none = || Failure(StatusCode::NOT_FOUND, "no such note".to_owned());
        let id = id.parse().map_err(|_| none())?;
        let note = self.ask(move |notes| notes.get(id)).await?;
        Ok(json::answer(StatusCode::OK, &note.ok_or_else(none)?))
    }

    /// Runs a job on a worker. What went wrong there is said there, since
    /// `say` blocks. The client is not told: it may be none of its business.
    async fn ask<F, T>(&self, job: F) -> Result<T, Failure>
    where
        F: FnOnce(&Notes) -> Sqlite<T> + Send + 'static,
        T: Send + 'static,
    {
        let notes = Arc::clone(&self.notes);
        let tell = |why: &rusqlite::Error| say(&format!("notes: {why}"));
        let job = move || job(&notes).inspect_err(tell);
        let Ok(Ok(res)) = self.executor.submit(job).await else {
            let why = "the notes are out of order".to_owned();
            return Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, why));
        };
        Ok(res)
    }
}

// ----- TESTS ----------------------------------------------------------------

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use hyper::{Request, body::Bytes};

    fn handler() -> NotesHandler {
        let (executor, _) = ThreadPoolExecutor::new(1).unwrap();
        NotesHandler::initialize(executor, Notes::open(":memory:").unwrap())
    }

    #[tokio::test]
    async fn a_note_that_was_posted_is_there() {
        let handler = handler();
        let new = NewNote { text: "milk".to_owned() };
        let page = handler.post(new).await.unwrap();
        assert_eq!(page.status(), StatusCode::CREATED);
        assert_eq!(page.headers()[LOCATION], "/notes/1");

        let page = handler.get("1").await.unwrap();
        let body = page.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"id":1,"text":"milk"}"#);
    }

    #[tokio::test]
    async fn a_note_that_is_not_there_is_a_404() {
        for id in ["1", "-1", "one", ""] {
            let failure = handler().get(id).await.unwrap_err();
            assert_eq!(failure.0, StatusCode::NOT_FOUND, "{id:?}");
        }
    }

    #[tokio::test]
    async fn text_that_claims_to_be_no_json_is_a_415() {
        let body = Full::<Bytes>::from(r#"{"text":"milk"}"#);
        let failure = json::read::<NewNote, _>(Request::new(body)).await;
        let status = failure.err().unwrap().0;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
