//! Answers of the API server, of which none takes more memory than it may.

use std::io;

use axum::body::{Body, to_bytes};
use futures_util::{AsyncBufRead, TryStreamExt as _};
use http::Request;
use kube::{Client, Error, core::Status};

/// The longest answer that is read as a whole, in bytes.
const LONGEST: usize = 1 << 20;
/// The longest text of an error that is no `Status`, in bytes.
const LONGEST_TEXT: usize = 300;

/// Sends a request; the answer is read as it comes.
pub(super) async fn stream(
    client: &Client,
    request: Request<Vec<u8>>,
) -> Result<impl AsyncBufRead + use<>, Error> {
    let body = send(client, request).await?;
    Ok(body
        .into_data_stream()
        .map_err(io::Error::other)
        .into_async_read())
}

/// Sends a request, and reads an answer that can't be long.
pub(super) async fn whole(client: &Client, request: Request<Vec<u8>>) -> Result<Vec<u8>, Error> {
    read(send(client, request).await?).await
}

async fn send(client: &Client, request: Request<Vec<u8>>) -> Result<Body, Error> {
    let response = client.send(request.map(Into::into)).await?;
    let code = response.status();
    let body = Body::new(response.into_body());
    if !(code.is_client_error() || code.is_server_error()) {
        return Ok(body);
    }
    let bytes = read(body).await?;
    let status = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        let text = &text[..text.floor_char_boundary(LONGEST_TEXT)];
        Status::failure(text, "").with_code(code.as_u16())
    });
    Err(Error::Api(status.boxed()))
}

async fn read(body: Body) -> Result<Vec<u8>, Error> {
    let bytes = to_bytes(body, LONGEST).await;
    bytes
        .map(Into::into)
        .map_err(|error| Error::Service(error.into()))
}
