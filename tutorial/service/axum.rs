// SPDX-License-Identifier: MIT-0

//! The executor of Threaded Tokio in a server on axum. Below this comes its
//! section of main.rs, as it is.

use axum::extract::{Path, State};
use axum::{Router, http::StatusCode, routing::get};
use std::convert::Infallible;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use std::{env, io, thread};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> io::Result<()> {
    // Two jobs at once, whatever the rest of the server does.
    let (executor, _workers) = ThreadPoolExecutor::new(2)?;
    let app = Router::new().route("/sleep/{seconds}", get(sleep));
    let port = env::var("PORT").unwrap_or_else(|_| "8888".to_owned());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    eprintln!("listening on http://{}/", listener.local_addr()?);
    axum::serve(listener, app.with_state(executor)).await
}

async fn sleep(
    State(executor): State<ThreadPoolExecutor>,
    Path(seconds): Path<u64>,
) -> Result<String, StatusCode> {
    let job = move || {
        println!("going to sleep");
        thread::sleep(Duration::from_secs(seconds));
        println!("done sleeping");
        format!("slept {seconds} s")
    };
    // When the client leaves, axum drops this future, too.
    let res = executor.submit(job).await;
    res.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
