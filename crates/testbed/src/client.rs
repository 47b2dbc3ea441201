//! A small HTTP client with a time limit on everything: bodies in pieces, streams with the time of each chunk, and
//! hanging up early.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

type Body = BoxBody<Bytes, Infallible>;

/// A client with a pool of kept-alive connections. Cloning shares the pool.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<HttpConnector, Body>,
    patience: Duration,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Absolute URL.
    pub url: String,
    /// Headers besides those that frame the body.
    pub headers: HeaderMap,
    /// Body.
    pub payload: Payload,
}

/// A request body and how it is put on the wire.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// None.
    #[default]
    Empty,
    /// At once, with a content length.
    Whole(Bytes),
    /// Piece by piece, with the content length announced first.
    Pieces(Vec<Bytes>),
    /// Piece by piece, in chunked encoding.
    Chunked(Vec<Bytes>),
    /// As `Chunked`, with trailers after it.
    Trailed(Vec<Bytes>, HeaderMap),
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// From sending to the first byte of the body; to the end if it is empty.
    pub first_byte: Duration,
    /// From sending to the end.
    pub total: Duration,
}

/// A response whose body is still arriving. Dropping it hangs up.
#[derive(Debug)]
pub struct Streaming {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    sent: Instant,
    patience: Duration,
}

impl Client {
    /// A client that waits for at most a minute for each step.
    pub fn new() -> Self {
        Self::with_patience(Duration::from_secs(60))
    }

    /// A client that speaks HTTP/2 from the first byte on.
    pub fn http2() -> Self {
        let mut client = Self::new();
        client.inner = legacy::Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build(connector(client.patience));
        client
    }

    /// A client that waits for at most `patience` for the response head and for each chunk.
    pub fn with_patience(patience: Duration) -> Self {
        Self {
            inner: legacy::Client::builder(TokioExecutor::new()).build(connector(patience)),
            patience,
        }
    }

    /// `GET`.
    ///
    /// # Errors
    /// When no whole response arrives in time.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.send(Request::new(Method::GET, url)).await
    }

    /// `GET` of JSON.
    ///
    /// # Errors
    /// When the response is not a 200 with JSON.
    pub async fn get_json(&self, url: &str) -> Result<Value> {
        self.get(url).await?.json()
    }

    /// `POST` of JSON.
    ///
    /// # Errors
    /// When no whole response arrives in time.
    pub async fn post_json(&self, url: &str, body: &Value) -> Result<Answer> {
        self.send(Request::json(url, body)).await
    }

    /// Sends and reads the whole response.
    ///
    /// # Errors
    /// When no whole response arrives in time.
    pub async fn send(&self, request: Request) -> Result<Answer> {
        self.open(request).await?.collect().await
    }

    /// Sends and returns as soon as the response head is there.
    ///
    /// # Errors
    /// When no response arrives in time.
    pub async fn open(&self, request: Request) -> Result<Streaming> {
        let what = format!("{} {}", request.method, request.url);
        let request = request.into_http()?;
        let sent = Instant::now();
        let response = timeout(self.patience, self.inner.request(request))
            .await
            .with_context(|| format!("{what}: no response in {:?}", self.patience))?
            .with_context(|| what.clone())?;
        let (head, body) = response.into_parts();
        Ok(Streaming {
            status: head.status,
            headers: head.headers,
            body,
            sent,
            patience: self.patience,
        })
    }
}

fn connector(patience: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(patience));
    connector
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, url: &str) -> Self {
        Self {
            method,
            url: url.to_owned(),
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        }
    }

    /// A `POST` of JSON.
    pub fn json(url: &str, body: &Value) -> Self {
        Self::post(url, Payload::Whole(body.to_string().into()))
    }

    /// A `POST` of a body that says it is JSON.
    pub fn post(url: &str, payload: Payload) -> Self {
        let mut request = Self::new(Method::POST, url);
        request
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.payload = payload;
        request
    }

    /// Adds a header.
    ///
    /// # Panics
    /// On what cannot be a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("header name");
        self.headers
            .append(name, HeaderValue::from_str(value).expect("header value"));
        self
    }

    fn into_http(self) -> Result<http::Request<Body>> {
        let Self {
            method,
            url,
            mut headers,
            payload,
        } = self;
        if let Payload::Pieces(pieces) = &payload {
            let length: usize = pieces.iter().map(Bytes::len).sum();
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let mut request = http::Request::new(payload.into_body());
        *request.method_mut() = method;
        *request.uri_mut() = url.parse().with_context(|| format!("URL {url}"))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

impl Payload {
    fn into_body(self) -> Body {
        match self {
            Self::Empty => Empty::new().boxed(),
            Self::Whole(body) => Full::new(body).boxed(),
            Self::Pieces(pieces) | Self::Chunked(pieces) => framed(pieces, None),
            Self::Trailed(pieces, trailers) => framed(pieces, Some(trailers)),
        }
    }
}

fn framed(pieces: Vec<Bytes>, trailers: Option<HeaderMap>) -> Body {
    let data = pieces.into_iter().map(Frame::data);
    let frames = stream::iter(data.chain(trailers.map(Frame::trailers))).then(|frame| async {
        // Lets the connection write what it has, so that pieces are not joined on the way out.
        tokio::task::yield_now().await;
        Ok(frame)
    });
    BodyExt::boxed(StreamBody::new(frames))
}

impl Streaming {
    /// The next chunk of the body as it came off the wire, and when, counted from sending; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or is silent for too long.
    pub async fn chunk(&mut self) -> Result<Option<(Duration, Bytes)>> {
        loop {
            let frame = timeout(self.patience, self.body.frame())
                .await
                .with_context(|| format!("no more of the body in {:?}", self.patience))?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            if let Ok(data) = frame.context("the body broke off")?.into_data() {
                return Ok(Some((self.sent.elapsed(), data)));
            }
        }
    }

    /// Reads on until the end.
    ///
    /// # Errors
    /// When the connection breaks or is silent for too long.
    pub async fn collect(mut self) -> Result<Answer> {
        let mut body = BytesMut::new();
        let mut first_byte = None;
        while let Some((when, data)) = self.chunk().await? {
            first_byte.get_or_insert(when);
            body.extend_from_slice(&data);
        }
        let total = self.sent.elapsed();
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body: body.freeze(),
            first_byte: first_byte.unwrap_or(total),
            total,
        })
    }
}

impl Answer {
    /// The body of a 200 as JSON.
    ///
    /// # Errors
    /// On any other status, and on what is not JSON.
    pub fn json(&self) -> Result<Value> {
        if self.status != StatusCode::OK {
            bail!("status {}: {}", self.status, self.text());
        }
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header.
    ///
    /// # Errors
    /// When it is absent or not text.
    pub fn header(&self, name: &str) -> Result<&str> {
        let value = self
            .headers
            .get(name)
            .with_context(|| format!("no header {name} (status {})", self.status))?;
        value.to_str().with_context(|| format!("header {name}"))
    }

    /// The JSON events of a server-sent event stream, without the closing `[DONE]`.
    ///
    /// # Errors
    /// On a `data` line that is not JSON.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = self.text();
        let data = text
            .lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim);
        data.filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).with_context(|| format!("event {data}")))
            .collect()
    }

    /// `usage` of the response, streamed or not.
    ///
    /// # Errors
    /// When there is none.
    pub fn usage(&self) -> Result<Value> {
        let is_stream = self
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let found = if is_stream {
            let events = self.events()?;
            events
                .into_iter()
                .rev()
                .find_map(|mut event| event.get_mut("usage").map(Value::take).filter(Value::is_object))
        } else {
            self.json()?.get_mut("usage").map(Value::take)
        };
        found.with_context(|| format!("no usage: {}", self.text()))
    }

    /// `usage.prompt_tokens_details.cached_tokens`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn cached_tokens(&self) -> Result<u64> {
        let usage = self.usage()?;
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        cached.with_context(|| format!("no cached_tokens: {usage}"))
    }
}
