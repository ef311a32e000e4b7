//! Peers that are wrong, strange or malicious.

use bytes::BytesMut;
use twinlun_io::Stream;

use super::super::establish::{self, Fresh};
use super::super::handshake::Identity;
use super::super::wire::{Decoder, Encoder, Frame, FrameBody};
use super::*;

const STRANGER: [u8; 4] = [10, 0, 0, 66];

fn address() -> SocketAddr {
    SocketAddr::new(IpAddr::from(WEST), PORT)
}

/// A party that has the key and breaks the rules afterwards.
struct Rogue {
    stream: Stream,
    encoder: Encoder,
    decoder: Decoder,
}

impl Rogue {
    async fn connect(east: &Unit) -> Self {
        let shard = east.process.shard();
        let stream = shard.connect(address()).await.expect("connects");
        let identity = Identity { unit: Rc::from("east"), key: key() };
        let Fresh { keys, early } =
            establish::dial(&shard, &stream, &identity, &east.peer("west")).await.expect("has the key");
        let (encoder, decoder) = (Encoder::new(keys.send_tag), Decoder::new(keys.receive_tag, early));
        Self { stream, encoder, decoder }
    }

    async fn send(&mut self, request: u64, body: FrameBody) {
        let (header, payload) = self.encoder.encode(request, body);
        // The other end may have had enough of it already.
        if self.stream.send_all(&header.into()).await.is_ok() {
            let _ = self.stream.send_all(&payload).await;
        }
    }

    /// The next frame that is no heartbeat; `None` when the connection is closed.
    async fn receive(&mut self) -> Option<Frame> {
        loop {
            while let Some(frame) = self.decoder.next().expect("the listening end keeps the rules") {
                if frame.body != FrameBody::Heartbeat {
                    return Some(frame);
                }
            }
            match self.stream.recv(self.decoder.room()).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn opened(&mut self) {
        let frame = self.receive().await.expect("a window");
        assert!(matches!(frame.body, FrameBody::Open(_)));
    }

    /// Reads on to the goodbye.
    async fn farewell(&mut self) -> String {
        loop {
            match self.receive().await {
                Some(Frame { body: FrameBody::Goodbye(reason), .. }) => {
                    return String::from_utf8(reason.to_vec()).expect("text");
                }
                Some(_) => {}
                None => return "closed".to_owned(),
            }
        }
    }
}

#[test]
fn more_than_the_window_ends_the_session() {
    with_pair(1, async |_, east, west| {
        west.echo.gate.set(false);
        let mut rogue = Rogue::connect(&east).await;
        rogue.opened().await;
        for id in 0..=u64::from(Limits::default().requests_in_flight) {
            rogue.send(id, FrameBody::Request(control(""))).await;
        }
        assert_eq!(rogue.farewell().await, "protocol error: more requests or bytes than the window allows");
        assert_eq!(west.echo.most.get(), Limits::default().requests_in_flight as usize);
        west.echo.gate.set(true);
        west.echo.closed.wait_for(|closed| *closed == 1).await;
    });
}

#[test]
fn frames_out_of_place_end_the_session() {
    with_pair(2, async |world, east, west| {
        let window = wire::Window { requests: 1, bytes: 1 };
        let response = Response::Control(Bytes::new());
        for body in [FrameBody::Open(window), FrameBody::Response(response)] {
            let mut rogue = Rogue::connect(&east).await;
            rogue.opened().await;
            rogue.send(1, body).await;
            assert_eq!(rogue.farewell().await, "protocol error: a frame that does not belong here");
        }
        // A request before the session is open: an older session still has the turn.
        west.echo.gate.set(false);
        let mut first = Rogue::connect(&east).await;
        first.opened().await;
        first.send(1, FrameBody::Request(control("hangs"))).await;
        west.echo.wait_running(&world.shard(), 1).await;
        let mut second = Rogue::connect(&east).await;
        second.send(1, FrameBody::Request(control("too early"))).await;
        assert_eq!(second.farewell().await, "protocol error: a frame that does not belong here");
        assert_eq!(first.farewell().await, "replaced by a newer connection");
        assert_eq!(west.echo.most.get(), 1);
        west.echo.gate.set(true);
    });
}

#[test]
fn a_peer_that_takes_no_answers_is_asked_for_no_more() {
    with_pair(3, async |world, east, west| {
        let mut rogue = Rogue::connect(&east).await;
        rogue.opened().await;
        let read = || data(ByteRange::new(0, MAX_DATA as u64), DataOp::Read);
        let asking = async {
            for id in 0..200 {
                rogue.send(id, FrameBody::Request(read())).await;
            }
            std::future::pending::<()>().await;
        };
        // It is cut off for its silence in the end: what it sent after the backlog was full was never read.
        let _ = world.shard().timeout(LONG, asking).await;
        west.echo.closed.wait_for(|closed| *closed == 1).await;
    });
}

#[test]
fn strangers_are_refused_and_peers_still_get_in() {
    with_pair(4, async |world, east, west| {
        let stranger = world.process("stranger", STRANGER.into()).shard();
        let mut random = [0; 4096];
        for round in 0..40usize {
            let stream = stranger.connect(address()).await.expect("connects");
            stranger.fill_random(&mut random);
            let noise = Bytes::copy_from_slice(&random[..round * 100]);
            let _ = stream.send_all(&noise.into()).await;
            let mut answer = BytesMut::with_capacity(4096);
            if round * 100 >= 128 {
                // Closed at once, or reset with bytes unread.
                assert!(matches!(stream.recv(&mut answer).await, Ok(0) | Err(_)));
            }
        }
        let peer = east.peer("west");
        let _hold = peer.connect();
        let session = session(world, &peer).await;
        ask(&session, control("friend")).await.expect("answered");
        assert_eq!(west.echo.opened.get(), 1);
    });
}

#[test]
fn idle_strangers_hold_a_place_for_the_length_of_a_handshake_only() {
    with_pair(5, async |world, east, west| {
        let stranger = world.process("stranger", STRANGER.into()).shard();
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(stranger.connect(address()).await.expect("connects"));
        }
        // The listening job, the dialling job and the places.
        world.shard().sleep(Duration::from_millis(100)).await;
        assert_eq!(west.process.jobs(), 2 + Limits::default().half_open);
        let peer = east.peer("west");
        let _hold = peer.connect();
        let began = world.now();
        session(world, &peer).await;
        let timing = Timing::default();
        assert!(world.now() - began <= timing.handshake_timeout + timing.reconnect_longest * 2);
        for stream in idle {
            let mut answer = BytesMut::with_capacity(16);
            assert!(matches!(stream.recv(&mut answer).await, Ok(0) | Err(_)), "closed");
        }
    });
}

#[test]
fn a_peer_that_connects_and_never_answers_is_given_up() {
    let world = World::new(6, WorldOptions::default());
    let done = world.run(async {
        let mute = world.process("west", WEST.into());
        let listener = mute.shard().listen(address()).await.expect("listens");
        let east = Unit::start(&world, EAST, config("east", &[("west", WEST)])).await;
        let peer = east.peer("west");
        let _hold = peer.connect();
        let _stream = listener.accept().await.expect("a connection");
        let status = unreachable(&world, &peer).await;
        let reason = status.reason.expect("a reason");
        assert!(reason.contains("handshake took too long"), "{reason}");
        assert!(world.now().since_start() < Timing::default().handshake_timeout * 2);
    });
    done.expect("ends");
}

#[test]
fn wrong_keys_and_wrong_names_are_told_to_both_ends() {
    let other_key = |unit: &str, peers: &[(&str, [u8; 4])]| {
        let mut config = config(unit, peers);
        config.key = LinkKey::new(vec![9; 16]).expect("long enough");
        config
    };
    let mut lost = config("west", &[("north", EAST)]);
    for (west, wanted) in [
        (other_key("west", &[("east", EAST)]), "refused by the peer: the keys differ"),
        (lost.clone(), "refused by the peer: this unit is not configured there as a peer"),
        (
            {
                lost.unit = "south".to_owned();
                lost.peers[0].unit = "east".to_owned();
                lost
            },
            "answers as unit \"south\"",
        ),
    ] {
        with_units(7, config("east", &[("west", WEST)]), west, async |world, east, west| {
            let peer = east.peer("west");
            let _hold = peer.connect();
            let reason = unreachable(world, &peer).await.reason.expect("a reason");
            assert!(reason.ends_with(wanted), "{reason}");
            world.shard().sleep(LONG).await;
            assert_eq!(west.echo.opened.get(), 0);
            assert_eq!(peer.status().reachability, Reachability::Unreachable);
        });
    }
}

#[test]
fn damage_on_the_way_ends_the_session_and_reaches_nobody() {
    let told = Cell::new(0);
    for seed in 0..20 {
        with_pair(seed, async |world, east, _west| {
            let peer = east.peer("west");
            let _hold = peer.connect();
            let first = session(world, &peer).await;
            ask(&first, write(0, 100_000)).await.expect("answered");
            world.link("east", "west").corrupt_next(1);
            // Whichever frame was hit, no wrong answer comes: the write of `ask` is compared at the other end.
            let mut number = 0;
            while ask(&first, write(number << 12, 4096)).await.is_ok() {
                number += 1;
                assert!(number < 1000, "the damage was not noticed");
            }
            let reason = first.closed().await;
            // The peer may have closed before its goodbye came through.
            told.set(told.get() + u32::from(reason.contains("protocol error")));
            let next = session(world, &peer).await;
            ask(&next, write(0, 100_000)).await.expect("answered");
        });
    }
    assert!(told.get() > 10, "{} of 20 knew why", told.get());
}
