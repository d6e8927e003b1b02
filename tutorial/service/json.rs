// SPDX-License-Identifier: MIT-0

//! JSON in, JSON out, and an error that becomes a page.

use crate::{Page, page};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, time::Duration};
use tokio::time::timeout;

/// What a body may have: so many bytes, and so long from the end of its head.
const LIMIT: usize = 65_536;
const PATIENCE: Duration = Duration::from_secs(10);

/// A page with `value` as JSON.
pub fn answer(status: StatusCode, value: &impl Serialize) -> Page {
    let Ok(body) = serde_json::to_string(value) else {
        // Of our types none can get here. A map may, if its keys are no text.
        return page(StatusCode::INTERNAL_SERVER_ERROR, String::new());
    };
    let mut page = page(status, body);
    let json = HeaderValue::from_static("application/json");
    page.headers_mut().insert(CONTENT_TYPE, json);
    page
}

/// Why a request does not get what it asks for: a status, and words for the
/// client. A handler leaves by `?` with one, and it becomes a page.
#[derive(Debug)]
pub struct Failure(pub StatusCode, pub String);

impl Failure {
    pub fn page(self) -> Page {
        let Self(status, why) = self;
        let error = format!("{status}: {why}");
        let mut page = answer(status, &serde_json::json!({ "error": error }));
        let headers = page.headers_mut();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            // Then the words are the methods that are.
            HeaderValue::try_from(why).map(|it| headers.insert(ALLOW, it)).ok();
        } else if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        page
    }
}

/// Reads a body, and drops the rest of the request before it waits for that.
pub async fn read<T, B>(request: Request<B>) -> Result<T, Failure>
where
    T: DeserializeOwned,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let media = head.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let media = media.and_then(|it| it.split(';').next()).unwrap_or_default();
    if !media.trim().eq_ignore_ascii_case("application/json") {
        let why = "send Content-Type: application/json".to_owned();
        return Err(Failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    drop(head);
    let too_large = || {
        let why = format!("{LIMIT} bytes are allowed");
        Failure(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    // The client has said how large it will be. So one that waits for a `100
    // Continue` need not send it.
    if body.size_hint().lower() > LIMIT as u64 {
        return Err(too_large());
    }
    let whole = timeout(PATIENCE, Limited::new(body, LIMIT).collect()).await;
    let whole = whole.map_err(|_| {
        let why = format!("the body took more than {PATIENCE:?}");
        Failure(StatusCode::REQUEST_TIMEOUT, why)
    })?;
    let bad = |why: String| Failure(StatusCode::BAD_REQUEST, why);
    let whole = whole.map_err(|why| {
        let is_limit = why.is::<LengthLimitError>();
        if is_limit { too_large() } else { bad(why.to_string()) }
    })?;
    serde_json::from_slice(&whole.to_bytes()).map_err(|it| bad(it.to_string()))
}
