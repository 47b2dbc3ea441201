//! The libraries' work in the VM that it is done in: what `scripts/bench tokenizer` and `scripts/bench index` measure.
//!
//! Envoy loads this module in the filter's place. A request is a job: its path names it, its body is what to work on, and
//! the answer is JSON. Time is the host's monotonic clock, read right before and after the work, so what Envoy and HTTP
//! cost is left out; `memory` is the size of the VM's linear memory in bytes, which never shrinks: the high-water mark.
//!
//! | Job | Body | Answer |
//! | --- | --- | --- |
//! | `/load` | a tokenizer's artefact | `ns`, `memory` |
//! | `/load-json` | a canonical `tokenizer.json` | `ns`, `memory` |
//! | `/encode` | text | `ns`, `memory`, `tokens` |
//! | `/apply` | a message of the sync protocol about fleet or views | `ns`, `memory`, `entries` |
//! | `/decide` | queries: a `u32` count, so many `u64` sequence hashes, little-endian | `ns` of each |

mod jobs;

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use jobs::Jobs;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// How a body is copied into the VM: in pieces of the size in which artefacts come over the filter's stream.
const PIECE: usize = 128 << 10;

#[derive(Default)]
struct Root(Rc<RefCell<Jobs>>);

impl Context for Root {}

impl RootContext for Root {
    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request(Rc::clone(&self.0))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Request(Rc<RefCell<Jobs>>);

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        if end_of_stream {
            self.answer(Vec::new());
        }
        Action::Pause
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if end_of_stream {
            let mut body = Vec::with_capacity(size);
            while let Some(piece) = self.get_http_request_body(body.len(), PIECE.min(size - body.len())) {
                body.extend_from_slice(&piece);
                if body.len() >= size || piece.is_empty() {
                    break;
                }
            }
            self.answer(body);
        }
        Action::Pause
    }
}

impl Request {
    fn answer(&self, body: Vec<u8>) {
        let job = self.get_http_request_header(":path").unwrap_or_default();
        let (status, answer) = match self.0.borrow_mut().run(&job, body) {
            Ok(answer) => (200, answer),
            Err(problem) => (400, problem),
        };
        self.send_http_response(
            status,
            vec![("content-type", "application/json")],
            Some(answer.as_bytes()),
        );
    }
}
