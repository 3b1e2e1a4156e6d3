//! A collector of traces on loopback: takes OTLP over HTTP, or takes the connection and says nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// What came.
#[derive(Default)]
pub struct Taken {
    pub connections: usize,
    /// Head lines of each request, and its body.
    pub requests: Vec<(Vec<String>, Vec<u8>)>,
}

/// A collector; its threads end with the process of the test.
pub struct Collector {
    pub url: String,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    pub fn start() -> Self {
        Self::with(|mut connection, taken| {
            let mut reader = BufReader::new(connection.try_clone().unwrap());
            while let Some(request) = read(&mut reader) {
                taken.lock().unwrap().requests.push(request);
                let _ = connection
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n");
            }
        })
    }

    pub fn that_hangs() -> Self {
        Self::with(|connection, _| {
            let _ = connection.try_clone().unwrap().read_to_end(&mut Vec::new());
        })
    }

    fn with(serve: impl Fn(TcpStream, &Mutex<Taken>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::<Mutex<Taken>>::default();
        let (serve, shared) = (Arc::new(serve), taken.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                shared.lock().unwrap().connections += 1;
                let (serve, taken) = (serve.clone(), shared.clone());
                std::thread::spawn(move || serve(connection, &taken));
            }
        });
        Self { url, taken }
    }

    pub fn take(&self) -> Taken {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

/// Reads a request; `None` when the connection ends.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

impl Taken {
    /// All spans, each with what its resource says.
    pub fn spans(&self) -> Vec<(Vec<KeyValue>, Span)> {
        let mut spans = Vec::new();
        for (_, body) in &self.requests {
            for resource in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
                let about = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
                let scoped = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(scoped.map(|span| (about.clone(), span)));
            }
        }
        spans
    }
}

/// The value of an attribute, as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.as_ref()?.value.as_ref()?;
    let plain = match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(_)
        | Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => None,
    };
    Some(plain.unwrap_or_else(|| format!("{value:?}")))
}
