//! Listeners that are opened and closed while the server runs.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Opens further listeners of a running server.
#[derive(Clone, Debug)]
pub struct ExtraListeners(pub(super) mpsc::UnboundedSender<Opening>);

/// A listener on its way to the accepting thread.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) listener: TcpListener,
    /// Resolves when the listener is to be closed.
    pub(super) closing: oneshot::Receiver<()>,
    /// Dropped when the listener is closed.
    pub(super) closed: SyncSender<()>,
}

impl ExtraListeners {
    /// Also serves on `listener` until the returned value is dropped. Bind it with [`super::bind`]. Fails if the server
    /// has stopped.
    pub fn open(&self, listener: TcpListener) -> std::io::Result<ExtraListener> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (close, closing) = oneshot::channel();
        // Nothing is ever sent: the receiver waits for the sender to be dropped.
        let (closed, gone) = sync_channel(1);
        let gone_server = |_| std::io::Error::other("the server has stopped");
        self.0.send(Opening { listener, closing, closed }).map_err(gone_server)?;
        Ok(ExtraListener { address, close: Some(close), gone })
    }
}

/// A listener opened while the server runs. Dropping it closes the listener, and returns when the address is free
/// again; connections accepted through it continue.
#[derive(Debug)]
pub struct ExtraListener {
    /// Its address.
    pub address: SocketAddr,
    close: Option<oneshot::Sender<()>>,
    gone: Receiver<()>,
}

impl Drop for ExtraListener {
    fn drop(&mut self) {
        // The server may have stopped before.
        let _ = self.close.take().map(|close| close.send(()));
        let _ = self.gone.recv_timeout(CLOSE_WAIT);
    }
}

/// The accepting thread does nothing slow, so this timeout is not expected to pass.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
