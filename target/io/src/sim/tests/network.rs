//! Streams over links that work, and over links that do not.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;

use super::*;

#[test]
fn bytes_arrive_in_order_in_pieces_and_then_the_end() {
    for seed in 0..20 {
        let world = world(seed);
        let seen = transfer(&world, 300_000, Duration::ZERO);
        world.run_for(millis(2000)).expect("ends");
        assert_eq!(*seen.borrow(), Seen { bytes: 300_000, end: Some(Ok(())) }, "seed {seed}");
        assert!(world.counters()["net.short_read"] > 0);
    }
}

#[test]
fn a_slow_reader_stops_the_sender() {
    let world = world(1);
    let (east, west) = two(&world);
    let (shard, address) = (west.shard(), west.address(7));
    west.spawn(async move {
        let listener = shard.listen(address).await.expect("free");
        let _unread = listener.accept().await.expect("east connects");
        std::future::pending::<()>().await;
    });
    world.run_for(millis(1)).expect("ends");
    let shard = east.shard();
    let sent = world.run(async {
        let stream = shard.connect(address).await.expect("west listens");
        let mut sent = 0;
        loop {
            let data = [0; 1000];
            let slices = [std::io::IoSlice::new(&data)];
            let send = std::future::poll_fn(|cx| stream.poll_send(cx, &slices));
            match shard.timeout(millis(100), send).await {
                Ok(more) => sent += more.expect("the stream is fine"),
                Err(_) => return sent,
            }
        }
    });
    let limit = WorldOptions::default().link.buffer;
    let sent = sent.expect("the sender stops") as u64;
    assert!(limit.contains(&sent), "{sent} bytes are in the buffers");
}

#[test]
fn a_cut_skips_and_doubles_nothing() {
    let (mut resumed, mut reset, mut mute) = (0, 0, 0);
    for seed in 0..60 {
        let world = world(seed);
        let seen = transfer(&world, 200_000, millis(1));
        let mut rng = world.rng("test");
        let link = world.link("east", "west");
        for _ in 0..3 {
            world.run_for(millis(rng.range(2..=8))).expect("ends");
            match rng.below(3) {
                0 => link.cut(),
                1 => link.cut_forward(),
                _ => link.cut_backward(),
            }
            world.run_for(millis(rng.range(1..=200))).expect("ends");
            link.heal();
        }
        world.run_for(millis(10_000)).expect("ends");
        match seen.borrow().clone() {
            Seen { bytes: 200_000, end: Some(Ok(())) } => resumed += 1,
            Seen { end: Some(Err(ErrorKind::ConnectionReset)), .. } => reset += 1,
            Seen { bytes, end: None } if bytes < 200_000 => mute += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(resumed > 0 && reset > 0 && mute > 0, "{resumed} {reset} {mute}");
}

#[test]
fn a_sender_that_hears_nothing_stops_and_goes_on_when_it_does() {
    for seed in 0..10 {
        let world = world(seed);
        let seen = transfer(&world, 1_000_000, Duration::ZERO);
        world.run_for(Duration::from_micros(2500)).expect("ends");
        let link = world.link("west", "east");
        link.cut_forward();
        let before = seen.borrow().bytes;
        world.run_for(millis(10_000)).expect("ends");
        let during = seen.borrow().bytes;
        assert!(during - before <= 262_144 && during < 1_000_000, "the window closes");
        link.heal();
        world.run_for(millis(10_000)).expect("ends");
        assert_eq!(
            *seen.borrow(),
            Seen { bytes: 1_000_000, end: Some(Ok(())) },
            "only words were lost, no bytes"
        );
    }
}

#[test]
fn neither_end_is_told_of_a_cut() {
    let world = world(2);
    let seen = transfer(&world, 1_000_000, millis(1));
    world.run_for(millis(10)).expect("ends");
    world.link("east", "west").cut();
    world.run_for(millis(1)).expect("ends");
    let before = seen.borrow().clone();
    world.run_for(millis(100_000)).expect("ends");
    assert_eq!((before.end, &before), (None, &*seen.borrow()), "what was on the way is lost");
    assert_eq!(world.process("east", [10, 0, 0, 1].into()).jobs(), 1, "the sender waits");
}

#[test]
fn an_echo_over_a_clogged_link_takes_its_time() {
    let world = world(3);
    let (east, west) = two(&world);
    let (shard, address) = (west.shard(), west.address(7));
    west.spawn(async move {
        let listener = shard.listen(address).await.expect("free");
        let stream = listener.accept().await.expect("east connects");
        let mut buffer = BytesMut::with_capacity(100);
        while stream.recv(&mut buffer).await.is_ok_and(|len| len > 0) {
            stream.send_all(&buffer.split().freeze().into()).await.expect("east reads");
            buffer.reserve(100);
        }
    });
    world.run_for(millis(1)).expect("ends");
    world.link("west", "east").clog(millis(250));
    let shard = east.shard();
    let times = world.run(async {
        let mut times = vec![shard.now()];
        let stream = shard.connect(address).await.expect("west listens");
        times.push(shard.now());
        for _ in 0..2 {
            stream.send_all(&payload(9, 10)).await.expect("there is room");
            let mut buffer = BytesMut::with_capacity(64);
            while buffer.len() < 10 {
                stream.recv(&mut buffer).await.expect("west answers");
            }
            assert_eq!(&buffer[..], [9; 10]);
            times.push(shard.now());
            world.link("east", "west").clog(Duration::ZERO);
        }
        times
    });
    let times = times.expect("the echo comes");
    let took: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(took[0] >= millis(500) && took[1] >= millis(500) && took[2] < millis(10), "{took:?}");
}

/// Connects from `east` to `west` with a limit.
fn try_connect(world: &World, port: u16, limit: Duration) -> Option<Result<(), ErrorKind>> {
    let (east, west) = (world.process("east", [10, 0, 0, 1].into()), std::net::IpAddr::from([10, 0, 0, 2]));
    let shard = east.shard();
    let connect = shard.connect(std::net::SocketAddr::new(west, port));
    let result = world.run(async { shard.timeout(limit, connect).await }).expect("the limit passes");
    result.ok().map(|done| done.map(drop).map_err(|error| error.kind()))
}

#[test]
fn connecting_to_nobody_is_refused_and_into_a_cut_takes_long() {
    let world = world(4);
    let (_, west) = two(&world);
    let (shard, address) = (west.shard(), west.address(7));
    let listen = async move {
        let listener = shard.listen(address).await.expect("free");
        assert_eq!(shard.listen(address).await.err().map(|e| e.kind()), Some(ErrorKind::AddrInUse));
        loop {
            drop(listener.accept().await);
        }
    };
    west.spawn(listen);
    let (short, long) = (millis(500), millis(200_000));
    assert_eq!(try_connect(&world, 7, short), Some(Ok(())));
    assert_eq!(try_connect(&world, 8, short), Some(Err(ErrorKind::ConnectionRefused)));
    let link = world.link("east", "west");
    link.refuse(true);
    assert_eq!(try_connect(&world, 7, short), Some(Err(ErrorKind::ConnectionRefused)));
    link.refuse(false);
    link.cut();
    assert_eq!(try_connect(&world, 7, short), None);
    assert_eq!(try_connect(&world, 7, long), Some(Err(ErrorKind::TimedOut)));
    let (handle, shard) = (world.handle(), world.shard());
    world.shard().spawn(async move {
        shard.sleep(millis(10_000)).await;
        handle.link("east", "west").heal();
    });
    assert_eq!(try_connect(&world, 7, long), Some(Ok(())), "asked again after the cut");
    west.kill();
    assert_eq!(try_connect(&world, 7, short), Some(Err(ErrorKind::ConnectionRefused)));
    world.process("west", west.ip()).power_cut();
    assert_eq!(try_connect(&world, 7, short), None, "nobody is there to refuse");
}

#[test]
fn peers_of_a_killed_process_are_told_and_those_of_a_dark_one_are_not() {
    let (mut ended, mut reset) = (0, 0);
    for seed in 0..20 {
        let world = world(seed);
        let seen = transfer(&world, 1_000_000, millis(1));
        world.run_for(millis(10)).expect("ends");
        two(&world).0.kill();
        world.run_for(millis(10)).expect("ends");
        match seen.borrow().end {
            Some(Ok(())) => ended += 1,
            Some(Err(ErrorKind::ConnectionReset)) => reset += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(ended > 0 && reset > 0);

    let world = world(1);
    let seen = transfer(&world, 1_000_000, millis(1));
    world.run_for(millis(10)).expect("ends");
    let (east, west) = two(&world);
    west.power_cut();
    world.run_for(millis(60_000)).expect("ends");
    assert_eq!((seen.borrow().end, east.jobs()), (None, 1), "east sends into the dark and waits");
    world.process("west", west.ip());
    world.run_for(millis(10_000)).expect("ends");
    assert_eq!(east.jobs(), 0, "the machine is back and knows no such connection");
}

#[test]
fn shutdown_and_reset_end_what_is_pending() {
    for reset in [false, true] {
        let world = world(5);
        let (east, west) = two(&world);
        let seen = Rc::new(RefCell::new(Seen::default()));
        let (shard, address, into) = (west.shard(), west.address(7), seen.clone());
        west.spawn(async move {
            let listener = shard.listen(address).await.expect("free");
            receive_pattern(listener.accept().await.expect("east connects"), into).await;
        });
        world.run_for(millis(1)).expect("ends");
        let (shard, handle) = (east.shard(), world.handle());
        let own = world.run(async {
            let stream = shard.connect(address).await.expect("west listens");
            let (clone, own) = (stream.clone(), Rc::new(RefCell::new(Seen::default())));
            shard.spawn(receive_pattern(clone, own.clone()));
            send_pattern(shard.clone(), stream.clone(), 10_000, millis(2)).await;
            if reset {
                handle.link("east", "west").reset();
            } else {
                stream.shutdown();
            }
            let sent = stream.send_all(&payload(1, 1)).await.map_err(|error| error.kind());
            shard.sleep(millis(5)).await;
            (own.borrow().end, sent)
        });
        let (own, sent) = own.expect("ends");
        let told = seen.borrow().clone();
        if reset {
            let broken = Err(ErrorKind::ConnectionReset);
            assert_eq!((own, sent, told.end), (Some(broken), broken, Some(broken)));
        } else {
            assert_eq!((own, sent), (Some(Ok(())), Err(ErrorKind::BrokenPipe)));
            assert_eq!(told, Seen { bytes: 10_000, end: Some(Ok(())) }, "what was sent before arrives");
        }
    }
}

#[test]
fn a_stream_dropped_with_unread_data_resets_its_peer() {
    for unread in [false, true] {
        let world = world(7);
        let (east, west) = two(&world);
        let (shard, address) = (west.shard(), west.address(7));
        west.spawn(async move {
            let listener = shard.listen(address).await.expect("free");
            let stream = listener.accept().await.expect("east connects");
            shard.sleep(millis(20)).await;
            let mut buffer = BytesMut::with_capacity(64);
            while !unread && buffer.len() < 10 {
                stream.recv(&mut buffer).await.expect("east sent ten bytes");
            }
        });
        world.run_for(millis(1)).expect("ends");
        let shard = east.shard();
        let end = world.run(async {
            let stream = shard.connect(address).await.expect("west listens");
            stream.send_all(&payload(1, 10)).await.expect("there is room");
            stream.recv(&mut BytesMut::with_capacity(64)).await.map_err(|error| error.kind())
        });
        let expected = if unread { Err(ErrorKind::ConnectionReset) } else { Ok(0) };
        assert_eq!(end.expect("ends"), expected);
    }
}

#[test]
fn corruption_flips_a_single_bit() {
    let world = world(6);
    let (east, west) = two(&world);
    world.link("east", "west").corrupt_next(1);
    let (shard, address) = (west.shard(), west.address(7));
    let got = Rc::new(RefCell::new(Vec::new()));
    let into = got.clone();
    west.spawn(async move {
        let listener = shard.listen(address).await.expect("free");
        let stream = listener.accept().await.expect("east connects");
        let mut buffer = BytesMut::with_capacity(1 << 17);
        while stream.recv(&mut buffer).await.is_ok_and(|len| len > 0) {}
        into.borrow_mut().extend_from_slice(&buffer);
    });
    world.run_for(millis(1)).expect("ends");
    let shard = east.shard();
    let sent = world.run(async {
        let stream = shard.connect(address).await.expect("west listens");
        stream.send_all(&payload(0, 50_000)).await
    });
    sent.expect("ends").expect("west reads");
    world.run_for(millis(100)).expect("ends");
    let got = got.take();
    assert_eq!(got.len(), 50_000);
    assert_eq!(got.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    assert_eq!(world.counters()["net.corrupt"], 1);
}
