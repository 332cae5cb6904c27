//! The HTTP edge without an application: the basic cost of a request.
//!
//! ```text
//! cargo build --release -p casemate-server --example no_op
//! taskset -c 0 target/release/examples/no_op 127.0.0.1:9443 1 &
//! taskset -c 1 h2load --h1 -c 32 -t 1 -n 400000 https://127.0.0.1:9443/
//! ```

use std::sync::Arc;

use casemate_core::runtime::BoxFuture;
use casemate_server::http::serve::{self, Bounds, CertSlot, Peer, ReplyBody, Service};
use casemate_server::process::{self, End, Exit, Stop, WipingAllocator};
use hyper::body::Incoming;
use hyper::{Request, Response};

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

struct NoOp;

impl Service for NoOp {
    fn call(self: Arc<Self>, _: Request<Incoming>, _: Peer) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async { Response::new(ReplyBody::whole(&b"{\"status\":\"ok\"}"[..])) })
    }
}

fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().ok_or("address")?.parse()?;
    let workers = args.next().ok_or("workers")?.parse()?;
    process::harden()?;
    let bounds = Bounds::within(process::raise_file_limit());
    let stop = Stop::new();
    let signalled = stop.clone();
    process::on_signal(move || signalled.request(End::Shutdown))?;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let slot = CertSlot::new(vec![made.cert.der().to_vec()], &made.signing_key.serialize_der())?;
    let listeners = vec![serve::bind(address)?];
    serve::start(listeners, Arc::new(slot), workers, Arc::new(NoOp), bounds, &stop)?.wait();
    Ok(Exit::Ok)
}
