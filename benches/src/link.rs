//! A link between units that counts what it carries.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Cores;
use crate::machine::pin;

/// A relay on loopback.
pub(crate) struct CountingLink {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
}

impl CountingLink {
    /// Lays a link to `far`, whose near end is [`CountingLink::address`]. Its threads run on the load's core, to the end of the process.
    pub(crate) fn lay(far: SocketAddr, cores: Cores) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let carried = Arc::new(AtomicU64::new(0));
        let counter = carried.clone();
        std::thread::spawn(move || {
            // On another core it works just as well.
            let _ = pin(cores.load);
            for near in listener.incoming() {
                let ends = near.and_then(|near| Ok((near, TcpStream::connect(far)?)));
                let Ok((near, far)) = ends else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    // Without a second handle this direction stays shut, and the units see a dead link.
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let counter = counter.clone();
                    std::thread::spawn(move || relay(from, to, &counter));
                }
            }
        });
        Ok(Self { address, carried })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of both directions so far.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, counter: &AtomicU64) {
    let _ = to.set_nodelay(true);
    let mut buffer = vec![0; 256 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
    // The peers may have been faster.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
