// SPDX-License-Identifier: MIT-0

//! `POST /jobs` and `GET /jobs/17`: work that outlives the process. It is
//! written down in PostgreSQL before the client hears a yes, and any replica
//! may do it.

use crate::json::{self, Failure};
use crate::{Core, Page, ThreadPoolExecutor, or_exit, say, setting};
use hyper::header::{HeaderValue, LOCATION};
use hyper::{HeaderMap, StatusCode};
use postgres::{Client, Config, Error, NoTls};
use serde::Serialize;
use std::error::Error as _;
use std::mem::forget;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

// ----- CORE -----------------------------------------------------------------

/// The table of jobs. It knows nothing of HTTP or of async code, and it blocks.
pub struct Jobs {
    config: Config,
    /// The connections that no worker uses at the moment.
    idle: Mutex<Vec<Client>>,
}

#[derive(Serialize)]
pub struct Job {
    id: i64,
    state: String,
    result: Option<String>,
}

impl Jobs {
    /// Reads `DATABASE_URL`. That may hold a password, so it is not repeated
    /// where it is wrong.
    pub fn new() -> Self {
        let here = "postgresql://127.0.0.1/jobs".to_owned();
        let url = setting("DATABASE_URL", here, "a URL", |_| true);
        let mut config = or_exit("read DATABASE_URL", url.parse::<Config>());
        // Of a machine that is gone, nothing else is ever heard.
        config.connect_timeout(Duration::from_secs(2));
        config.tcp_user_timeout(Duration::from_secs(10));
        Self { config, idle: Mutex::default() }
    }

    /// Lends a connection. Where something fails, the idle ones go too: if the
    /// database was restarted, they are as dead.
    fn with<T>(
        &self,
        job: impl FnOnce(&mut Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let list = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = list().pop();
        let mut db = idle.map_or_else(|| self.config.connect(NoTls), Ok)?;
        let res = job(&mut db).inspect_err(|_| list().clear())?;
        list().push(db);
        Ok(res)
    }

    /// Writes a job down, once for a key. Returns its number.
    fn add(&self, key: Option<&str>, remote_ip: IpAddr) -> Result<i64, Error> {
        self.with(|db| {
            let new = db.query_opt(
                "INSERT INTO jobs (key, remote_ip) VALUES ($1, $2)
                 ON CONFLICT (key) DO NOTHING RETURNING id",
                &[&key, &remote_ip],
            )?;
            // A statement of its own: it sees what others have done meanwhile.
            let old = "SELECT id FROM jobs WHERE key = $1";
            new.map_or_else(|| db.query_one(old, &[&key]), Ok)?.try_get(0)
        })
    }

    fn get(&self, id: i64) -> Result<Option<Job>, Error> {
        self.with(|db| {
            let query = "SELECT state, result FROM jobs WHERE id = $1";
            let Some(row) = db.query_opt(query, &[&id])? else {
                return Ok(None);
            };
            let (state, result) = (row.try_get(0)?, row.try_get(1)?);
            Ok(Some(Job { id, state, result }))
        })
    }
}

// ----- HANDLER --------------------------------------------------------------

/// So long a client waits for the database, in line and for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct JobsHandler {
    executor: ThreadPoolExecutor,
    jobs: Arc<Jobs>,
}

/// The `Idempotency-Key` of a request, if it has one.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| key.len() <= 255);
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        let why = "an Idempotency-Key is ASCII, and up to 255 of it";
        Failure(StatusCode::BAD_REQUEST, why.to_owned())
    })
}

impl JobsHandler {
    pub fn initialize(executor: ThreadPoolExecutor, jobs: Arc<Jobs>) -> Self {
        Self { executor, jobs }
    }

    /// 202: it is written down. Not: it is done.
    pub async fn post(
        &self,
        key: Option<String>,
        remote_ip: IpAddr,
    ) -> Result<Page, Failure> {
        let add = move |jobs: &Jobs| jobs.add(key.as_deref(), remote_ip);
        let id = self.ask(add).await?;
        let body = serde_json::json!({ "id": id });
        let mut page = json::answer(StatusCode::ACCEPTED, &body);
        if let Ok(path) = HeaderValue::try_from(format!("/jobs/{id}")) {
            page.headers_mut().insert(LOCATION, path);
        }
        Ok(page)
    }

    pub async fn get(&self, id: &str) -> Result<Page, Failure> {
        let none = || Failure(StatusCode::NOT_FOUND, "no such job".to_owned());
        let id = id.parse().map_err(|_| none())?;
        let job = self.ask(move |jobs| jobs.get(id)).await?;
        Ok(json::answer(StatusCode::OK, &job.ok_or_else(none)?))
    }

    /// Asks the database on a worker. Whatever goes wrong, the client should
    /// come back: with its key, it loses nothing by that.
    async fn ask<F, T>(&self, job: F) -> Result<T, Failure>
    where
        F: FnOnce(&Jobs) -> Result<T, Error> + Send + 'static,
        T: Send + 'static,
    {
        let jobs = Arc::clone(&self.jobs);
        let job = self.executor.submit(move || job(&jobs).inspect_err(tell));
        let Ok(Ok(Ok(res))) = timeout(PATIENCE, job).await else {
            let why = "the database does not answer".to_owned();
            return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        Ok(res)
    }
}

/// Only for workers: `say` blocks. The error says what failed, and its source
/// what for.
fn tell(why: &Error) {
    let source = why.source().map(ToString::to_string).unwrap_or_default();
    say(&format!("jobs: {why}: {source}"));
}

// ----- TAKERS ---------------------------------------------------------------

impl Jobs {
    /// Takes the job that waits longest, does it, and writes down what came of
    /// it, in one transaction. Returns whether there was one.
    ///
    /// While it runs, its row is locked, and others pass over it. If this
    /// process dies, or the database does, the lock is gone and nothing was
    /// written: the job waits again.
    fn work(&self, core: &Core) -> Result<bool, Error> {
        self.with(|db| {
            let mut transaction = db.transaction()?;
            let row = transaction.query_opt(
                "SELECT id, remote_ip FROM jobs WHERE state = 'waiting'
                 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
                &[],
            )?;
            let Some(row) = row else { return Ok(false) };
            let (id, remote_ip): (i64, _) = (row.try_get(0)?, row.try_get(1)?);
            // Nobody waits for it, so nobody can leave.
            let job = AssertUnwindSafe(|| core.get(remote_ip, || true));
            match catch_unwind(job).map_err(forget) {
                Ok(result) => transaction.execute(
                    "UPDATE jobs SET state = 'done', result = $2 WHERE id = $1",
                    &[&id, &result],
                )?,
                // The panic was the core's, and the transaction is well.
                Err(()) => transaction.execute(
                    "UPDATE jobs SET panics = panics + 1, state = CASE panics
                     WHEN 2 THEN 'failed' ELSE 'waiting' END WHERE id = $1",
                    &[&id],
                )?,
            };
            transaction.commit()?;
            Ok(true)
        })
    }
}

/// How long a taker waits where there is no job, or no database.
const PAUSE: Duration = Duration::from_secs(1);

/// Has jobs done until what it returns is dropped. What runs then goes on.
pub fn take(
    takers: usize,
    executor: ThreadPoolExecutor,
    jobs: &Arc<Jobs>,
    core: &Arc<Core>,
) -> JoinSet<()> {
    let take = |_| {
        let (executor, jobs) = (executor.clone(), Arc::clone(jobs));
        let core = Arc::clone(core);
        async move {
            loop {
                let (jobs, core) = (Arc::clone(&jobs), Arc::clone(&core));
                let job = move || jobs.work(&core).inspect_err(tell);
                // Or an `Err`, or a panic: neither ends the taker.
                if !matches!(executor.submit(job).await, Ok(Ok(true))) {
                    sleep(PAUSE).await;
                }
            }
        }
    };
    (0..takers).map(take).collect()
}
