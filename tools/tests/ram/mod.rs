//! A target over memory: the real protocol engine with the shortest device server there can be.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use twinlun_block::Payload;
use twinlun_io::{Listener, Outbox, Shard, Stream};
use twinlun_iscsi::login::LoginStatus;
use twinlun_iscsi::names::IscsiName;
use twinlun_iscsi::negotiate::Parameters;
use twinlun_iscsi::target::{
    Access, ConnectionConfig, Directory, Event, LoginSubject, ScsiCommand, ScsiResponse, SingleConnection,
    TargetRecord, Tsih,
};

pub(crate) const TARGET: &str = "iqn.2026-11.io.twinlun:ram";
pub(crate) const BLOCK: usize = 512;

/// What the target serves, and how it lies.
pub(crate) struct Ram {
    data: RefCell<Vec<u8>>,
    address: SocketAddr,
    writes: Cell<u64>,
    /// Every so many-th write is answered but not done; 0 is never.
    pub(crate) lose_every: u64,
}

impl Directory for Ram {
    fn access(&self, subject: &LoginSubject) -> Result<Access, LoginStatus> {
        match &subject.target {
            Some(name) if name.as_str() != TARGET => Err(LoginStatus::NotFound),
            _ => Ok(Access::open()),
        }
    }

    fn session(&self, _subject: &LoginSubject, _tsih: Tsih) -> Option<Parameters> {
        None
    }

    fn targets(&self, _initiator: &IscsiName) -> Vec<TargetRecord> {
        vec![TargetRecord { name: TARGET.parse().expect("a name"), portals: vec![(self.address, 1)] }]
    }
}

impl Ram {
    pub(crate) fn new(size: usize, address: SocketAddr, lose_every: u64) -> Rc<Self> {
        Rc::new(Self { data: RefCell::new(vec![0; size]), address, writes: Cell::new(0), lose_every })
    }

    fn execute(&self, command: &ScsiCommand) -> ScsiResponse {
        let cdb = &command.cdb;
        let lba = || u64::from_be_bytes(*cdb[2..].first_chunk().expect("16 bytes"));
        let blocks = || u32::from_be_bytes(*cdb[10..].first_chunk().expect("16 bytes"));
        let range = || {
            let start = lba() as usize * BLOCK;
            start..start + blocks() as usize * BLOCK
        };
        match cdb[0] {
            0x00 | 0x91 => ScsiResponse::good(),
            0x88 => match self.data.borrow().get(range()) {
                Some(data) => ScsiResponse::data(Bytes::copy_from_slice(data).into()),
                None => out_of_range(),
            },
            0x8a => {
                let number = self.writes.replace(self.writes.get() + 1) + 1;
                let lost = self.lose_every > 0 && number.is_multiple_of(self.lose_every);
                match self.data.borrow_mut().get_mut(range()) {
                    Some(_) if lost => {}
                    Some(place) => command.data_out.copy_to_slice(place),
                    None => return out_of_range(),
                }
                ScsiResponse::written(command.data_out.len() as u64)
            }
            0x9e => {
                let mut answer = vec![0; 32];
                let last = (self.data.borrow().len() / BLOCK - 1) as u64;
                answer[..8].copy_from_slice(&last.to_be_bytes());
                answer[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
                ScsiResponse::data(Payload::from(answer))
            }
            _ => ScsiResponse::check_condition(Bytes::from_static(&[0x72, 5, 0x20, 0])),
        }
    }

    pub(crate) async fn serve(self: Rc<Self>, shard: Shard, listener: Listener) {
        while let Ok(stream) = listener.accept().await {
            let mut seed = [0; 32];
            shard.fill_random(&mut seed);
            let config = ConnectionConfig::new(self.address, 1);
            let connection = SingleConnection::new(config, seed, shard.now().since_start());
            let port = Port { ram: self.clone(), stream, connection, outbox: Outbox::default() };
            shard.spawn(port.run(shard.clone()));
        }
    }
}

fn out_of_range() -> ScsiResponse {
    ScsiResponse::check_condition(Bytes::from_static(&[0x72, 5, 0x21, 0]))
}

struct Port {
    ram: Rc<Ram>,
    stream: Stream,
    connection: SingleConnection,
    outbox: Outbox,
}

impl Port {
    async fn run(mut self, shard: Shard) {
        std::future::poll_fn(|cx| self.poll(cx, &shard)).await;
        self.stream.shutdown();
    }

    fn poll(&mut self, cx: &mut Context<'_>, shard: &Shard) -> Poll<()> {
        loop {
            let now = shard.now().since_start();
            while let Some(event) = self.connection.poll_event() {
                match event {
                    Event::SessionReady(_) => self.connection.admit(NonZeroU16::MIN, now, &*self.ram),
                    Event::Command(command) => {
                        let response = self.ram.execute(&command);
                        self.connection.respond(command.tag, response);
                    }
                    // Every command is answered at once: none is left to be ended.
                    Event::TaskManagement(_) | Event::Terminate(_) | Event::Closed(_) => {}
                }
            }
            self.connection.transmit(|segment| self.outbox.push_bytes(segment));
            match self.outbox.poll_send(cx, &self.stream) {
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if self.connection.is_closing() => return Poll::Ready(()),
                _ => {}
            }
            match self.stream.poll_recv(cx, self.connection.buffer()) {
                Poll::Ready(Ok(1..)) => self.connection.received(now, &*self.ram),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
