//! A bad cable between a host and its array: it flips bits in data segments and breaks connections.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use twinlun_iscsi::pdu::{BHS_LEN, Bhs, Opcode};

/// How bad the wire is, in PDUs of full feature phase; 0 is never.
#[derive(Clone, Copy)]
pub(crate) struct Badness {
    /// One in so many PDUs with data arrives damaged.
    pub(crate) damage: u32,
    /// One in so many PDUs is the last of its connection.
    pub(crate) cut: u32,
}

/// A relay on loopback that understands just enough of iSCSI to damage nothing but data. Data digests must be on, header digests off.
pub(crate) struct BadWire {
    address: SocketAddr,
    state: Rc<State>,
}

struct State {
    badness: Cell<Badness>,
    random: Cell<u64>,
    damaged: Cell<u32>,
    cuts: Cell<u32>,
}

impl State {
    fn one_in(&self, count: u32) -> bool {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        count > 0 && (x >> 20).is_multiple_of(u64::from(count))
    }
}

impl BadWire {
    /// Lays a wire to `far`. The same seed makes the same trouble as far as the traffic is the same.
    pub(crate) async fn lay(far: SocketAddr, seed: u64, badness: Badness) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Rc::new(State {
            badness: Cell::new(badness),
            random: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            damaged: Cell::new(0),
            cuts: Cell::new(0),
        });
        let shared = state.clone();
        tokio::task::spawn_local(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::task::spawn_local(async move {
                    // Either end may go away at any time, and so may the wire.
                    let _ = carry(near, far, &state).await;
                });
            }
        });
        Ok(Self { address, state })
    }

    /// The host's end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it is so bad.
    pub(crate) fn set(&self, badness: Badness) {
        self.state.badness.set(badness);
    }

    /// PDUs damaged and connections cut so far.
    pub(crate) fn trouble(&self) -> (u32, u32) {
        (self.state.damaged.get(), self.state.cuts.get())
    }
}

async fn carry(near: TcpStream, far: SocketAddr, state: &State) -> std::io::Result<()> {
    let far = TcpStream::connect(far).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let full = Cell::new(false);
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // When one direction ends, both do: the streams are dropped.
    let (to_far, to_near) = (relay(near_in, far_out, state, &full), relay(far_in, near_out, state, &full));
    let (to_far, to_near) = (std::pin::pin!(to_far), std::pin::pin!(to_near));
    let mut ends = (to_far, to_near);
    std::future::poll_fn(|cx| {
        if ends.0.as_mut().poll(cx).is_ready() || ends.1.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
    Ok(())
}

/// Carries PDUs one way. `full` is set when the last Login Response passes.
async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &State,
    full: &Cell<bool>,
) -> std::io::Result<()> {
    loop {
        let mut pdu = vec![0; BHS_LEN];
        from.read_exact(&mut pdu).await?;
        let Some(header) = pdu.first_chunk::<BHS_LEN>().map(|bytes| Bhs(*bytes)) else { return Ok(()) };
        let login = matches!(header.opcode(), Opcode::LOGIN_REQUEST | Opcode::LOGIN_RESPONSE);
        let data = header.data_len().get();
        let digest = if !login && data > 0 { 4 } else { 0 };
        let start = BHS_LEN + header.ahs_len();
        pdu.resize(start + data.next_multiple_of(4) + digest, 0);
        from.read_exact(&mut pdu[BHS_LEN..]).await?;
        // T bit and NSG=3 of a response with status 0.
        let last_login =
            header.opcode() == Opcode::LOGIN_RESPONSE && header.0[1] & 0x83 == 0x83 && header.0[36] == 0;
        if last_login {
            full.set(true);
        }
        let badness = state.badness.get();
        if full.get() && !login {
            if data > 0 && state.one_in(badness.damage) {
                pdu[start + data / 2] ^= 0x10;
                state.damaged.set(state.damaged.get() + 1);
            }
            if state.one_in(badness.cut) {
                state.cuts.set(state.cuts.get() + 1);
                // Half of it still arrives.
                to.write_all(&pdu[..pdu.len() / 2]).await?;
                return Ok(());
            }
        }
        to.write_all(&pdu).await?;
    }
}
