//! The cable between the arrays: carries the link's bytes, and can be pulled.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay on loopback. Pulled, it carries nothing and tells nobody, as a real cable would.
pub struct Cable {
    address: SocketAddr,
    plugged: Rc<watch::Sender<bool>>,
}

impl Cable {
    /// Lays a cable to `far`; the near end is [`Cable::address`].
    pub async fn lay(far: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let plugged = Rc::new(watch::Sender::new(true));
        let near = plugged.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let plugged = near.subscribe();
                tokio::task::spawn_local(async move {
                    // Either end may go away at any time; the arrays notice by themselves.
                    let _ = carry(stream, far, plugged).await;
                });
            }
        });
        Ok(Self { address, plugged })
    }

    /// Where the near end is plugged in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pulls the cable.
    pub fn pull(&self) {
        self.plugged.send_replace(false);
    }

    /// Plugs it in again. What was on its way when it was pulled is lost with its connections.
    pub fn plug(&self) {
        self.plugged.send_replace(true);
    }
}

async fn carry(near: TcpStream, far: SocketAddr, mut plugged: watch::Receiver<bool>) -> std::io::Result<()> {
    let was_pulled = async {
        // An error means that the cable itself is gone.
        let _ = plugged.wait_for(|plugged| !plugged).await;
    };
    let relay = async {
        let far = TcpStream::connect(far).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        tokio::try_join!(
            tokio::io::copy(&mut near_in, &mut far_out),
            tokio::io::copy(&mut far_in, &mut near_out)
        )?;
        std::io::Result::Ok(())
    };
    let mut relay = std::pin::pin!(relay);
    tokio::select! {
        biased;
        () = was_pulled => {}
        done = &mut relay => return done,
    }
    // The sockets stay open and silent: neither array is told anything until the cable is back.
    let _ = plugged.wait_for(|plugged| *plugged).await;
    Ok(())
}
