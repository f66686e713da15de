//! Answers.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
};
use serde::Serialize;

/// What is never taken for anything but what it says it is.
const NO_SNIFFING: (HeaderName, HeaderValue) = (
    header::X_CONTENT_TYPE_OPTIONS,
    HeaderValue::from_static("nosniff"),
);

/// 200, or 503.
pub fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// JSON, as kube-proxy labels it.
pub fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    typed(status, "application/json", body)
}

/// Plain text.
pub fn text(body: &'static str) -> Response<Body> {
    typed(StatusCode::OK, "text/plain; charset=utf-8", body)
}

/// A body of some type.
pub fn typed(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let (name, value) = NO_SNIFFING;
    headers.insert(name, value);
    response
}

/// On one line.
pub fn compact(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of text and numbers always can be written.
    serde_json::to_vec(value).unwrap_or_default()
}

/// On many lines, indented by tabs: how kube-proxy writes health checks, which some read line by line.
pub fn indented(value: &impl Serialize) -> Vec<u8> {
    let mut body = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut body, format);
    match value.serialize(&mut serializer) {
        Ok(()) => body,
        Err(_) => Vec::new(),
    }
}
