//! A bare echo on the engine that the target runs on: requests of one size are answered with answers of another, and nothing is
//! done in between. What a target costs above this is its own work; below it nobody gets on this kernel's sockets.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use twinlun_io::{EngineChoice, Outbox, Shard, Stream, run_shard};

use crate::machine::{cpu_time, on_core};
use crate::sample::{BLOCK, Direction, Sample};
use crate::{Cores, Failure};

/// An iSCSI header.
const HEADER: usize = 48;
/// Room for one receive, as in the target.
const ROOM: usize = 256 << 10;
/// Receives before answers are sent, as in the target.
const RECEIVES_PER_TURN: usize = 4;
/// Answers after which they are sent while others are made, as in the target.
const EXCHANGES_PER_SEND: u64 = 8;

/// As the target by default, and as the load.
const BUSY_POLL: Duration = Duration::from_micros(50);

/// Sizes of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(crate) struct Exchange {
    request: usize,
    answer: usize,
}

impl Exchange {
    /// As many bytes each way as a command with immediate data, or one whose status comes with the data.
    pub(crate) fn of(direction: Direction) -> Self {
        let data = HEADER + BLOCK as usize;
        match direction {
            Direction::Read => Self { request: HEADER, answer: data },
            Direction::Write => Self { request: data, answer: HEADER },
        }
    }
}

/// One end of an echo: whenever `input` bytes have come, `output` bytes go.
struct End {
    stream: Stream,
    input: usize,
    output: Bytes,
    received: usize,
    exchanges: u64,
    buffer: BytesMut,
    outbox: Outbox,
}

impl End {
    fn new(stream: Stream, input: usize, output: usize) -> Self {
        Self {
            stream,
            input,
            output: vec![0xa5; output].into(),
            received: 0,
            exchanges: 0,
            buffer: BytesMut::with_capacity(ROOM),
            outbox: Outbox::default(),
        }
    }

    /// One turn like the target's: receive, answer, send. Ready when the other end is gone.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut more = true;
        for _ in 0..RECEIVES_PER_TURN {
            self.buffer.clear();
            match self.stream.poll_recv(cx, &mut self.buffer) {
                Poll::Pending => {
                    more = false;
                    break;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(n) => {
                    let n = n?;
                    self.received += n;
                    if n < ROOM {
                        break;
                    }
                }
            }
        }
        while self.received >= self.input {
            self.received -= self.input;
            self.exchanges += 1;
            self.outbox.push_bytes(self.output.clone());
            if self.exchanges.is_multiple_of(EXCHANGES_PER_SEND) {
                // Errors come again below.
                let _ = self.outbox.poll_send(cx, &self.stream);
            }
        }
        if let Poll::Ready(sent) = self.outbox.poll_send(cx, &self.stream) {
            sent?;
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The answering side: says its address on standard output and answers until it is killed.
pub(crate) fn serve(exchange: Exchange) -> io::Result<()> {
    run_shard(EngineChoice::Auto, |shard| async move {
        shard.busy_poll(BUSY_POLL);
        let listener = shard.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("{}", listener.local_address());
        loop {
            let mut end = End::new(listener.accept().await?, exchange.request, exchange.answer);
            shard.spawn(async move {
                // Whether it closed or broke off is all the same.
                let _ = std::future::poll_fn(|cx| end.turn(cx)).await;
            });
        }
    })?
}

/// A process that answers.
pub(crate) struct Echo {
    child: Child,
    address: SocketAddr,
    exchange: Exchange,
}

impl Echo {
    pub(crate) fn start(exchange: Exchange) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["echo", &exchange.request.to_string(), &exchange.answer.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        io::BufReader::new(child.stdout.take().ok_or("no output of the echo")?).read_line(&mut line)?;
        Ok(Self { address: line.trim().parse()?, child, exchange })
    }

    /// Keeps `depth` requests under way for a while.
    pub(crate) fn sample(&self, cores: Cores, depth: usize, time: Duration) -> Result<Sample, Failure> {
        let before = cpu_time(self.child.id())?;
        let (address, exchange) = (self.address, self.exchange);
        let ask = move || run_shard(EngineChoice::Auto, |shard| ask(shard, address, exchange, depth, time));
        let exchanges = on_core(cores.load, ask)??? as f64;
        let spent = cpu_time(self.child.id())?.saturating_sub(before);
        let latency = time.as_secs_f64() * 1e6 * depth as f64 / exchanges;
        let cpu = spent.as_secs_f64() * 1e6 / exchanges;
        Ok(Sample { iops: exchanges / time.as_secs_f64(), cpu, latency })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The asking side: the number of answers.
async fn ask(
    shard: Shard,
    address: SocketAddr,
    exchange: Exchange,
    depth: usize,
    time: Duration,
) -> io::Result<u64> {
    shard.busy_poll(BUSY_POLL);
    let mut end = End::new(shard.connect(address).await?, exchange.answer, exchange.request);
    for _ in 0..depth {
        end.outbox.push_bytes(end.output.clone());
    }
    let talk = std::future::poll_fn(|cx| end.turn(cx));
    match shard.timeout(time, talk).await {
        Err(_) => Ok(end.exchanges),
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
