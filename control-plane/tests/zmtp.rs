//! Our side of ZMTP against peers that do as they like. Ordinary peers are a library's sockets, in the tests of the whole
//! process.

use bytes::Bytes;
use control_plane::events::zmtp::{Connection, MAX_FRAME_BYTES, Part, Role, ZmtpError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PUB: &[u8] = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB";

fn greeting() -> Vec<u8> {
    let mut greeting = vec![0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A peer that says these bytes, whatever we say; and what comes of it.
async fn peer(says: Vec<u8>) -> (tokio::task::JoinHandle<TcpStream>, Result<Connection, ZmtpError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let talking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Fails where we have hung up.
        let _ = stream.write_all(&says).await;
        stream
    });
    let connection = Connection::connect(&endpoint, Role::HEAR_ALL).await;
    (talking, connection)
}

/// What a publisher's bytes after the handshake are read as.
async fn received(says: &[u8]) -> Result<Vec<Part>, ZmtpError> {
    let (_talking, connection) = peer([&greeting(), PUB, says].concat()).await;
    connection.unwrap().recv().await
}

fn part(bytes: &'static [u8]) -> Part {
    Part::Bytes(Bytes::from_static(bytes))
}

#[tokio::test]
async fn frames_make_messages() {
    let found = received(b"\x01\0\x01\x02ab\x00\x01c").await.unwrap();
    assert_eq!(found, [part(b""), part(b"ab"), part(b"c")]);
    let long = [&[2][..], &3_u64.to_be_bytes(), b"abc"].concat();
    assert_eq!(received(&long).await.unwrap(), [part(b"abc")]);
}

#[tokio::test]
async fn who_is_no_publisher_is_told_so() {
    for (says, expected) in [
        (b"HTTP/1.1 400 Bad Request\r\n".repeat(4), "no ZMTP 3 greeting"),
        ([&greeting(), &b"\x00\x01x"[..]].concat(), "a message before READY"),
        ([&greeting(), &b"\x04\x06\x05ERROR"[..]].concat(), "no READY"),
        (
            [&greeting(), &b"\x04\x06\x05READY"[..]].concat(),
            "READY without a socket type",
        ),
        ([&greeting(), &b"\x04\x0a\x05READY\x0bSoc"[..]].concat(), "cut off"),
        (
            [&greeting(), &b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PULL"[..]].concat(),
            "right port",
        ),
        ([&greeting()[..12], b"CURVE", &[0; 47]].concat(), "security mechanism"),
    ] {
        let error = peer(says).await.1.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_costs_itself_only() {
    let too_long = MAX_FRAME_BYTES + 1;
    let mut says = b"\x01\x01a".to_vec();
    says.push(2);
    says.extend(too_long.to_be_bytes());
    says.resize(says.len() + too_long as usize, 7);
    says.extend(b"\x00\x04next");
    let (_talking, connection) = peer([&greeting(), PUB, &says].concat()).await;
    let mut connection = connection.unwrap();
    assert_eq!(connection.recv().await.unwrap(), [part(b"a"), Part::TooLong(too_long)]);
    assert_eq!(connection.recv().await.unwrap(), [part(b"next")]);
}

#[tokio::test]
async fn what_is_only_announced_takes_no_memory() {
    // 2^62 bytes could not be had.
    for flags in [2, 3, 6] {
        let says = [&[flags][..], &(1_u64 << 62).to_be_bytes()].concat();
        assert!(matches!(received(&says).await, Err(ZmtpError::Protocol(_))));
    }
    // 1 GB is read to its end, which does not come.
    let (talking, connection) = peer([&greeting(), PUB, &[2], &(1_u64 << 30).to_be_bytes()[..], b"abc"].concat()).await;
    let mut connection = connection.unwrap();
    drop(talking.await.unwrap());
    assert!(connection.recv().await.is_err());
}

#[tokio::test]
async fn limits_hold_for_a_message_as_a_whole() {
    let frame = [
        &[3][..],
        &MAX_FRAME_BYTES.to_be_bytes(),
        &vec![7; MAX_FRAME_BYTES as usize],
    ]
    .concat();
    let found = received(&[&frame[..], b"\x00\x01x"].concat()).await.unwrap();
    assert!(matches!(&found[..], [Part::Bytes(_), Part::TooLong(1)]));
    assert!(matches!(
        received(&b"\x01\0".repeat(1000)).await,
        Err(ZmtpError::Protocol(_))
    ));
    assert!(matches!(received(b"\xff\x01x").await, Err(ZmtpError::Protocol(_))));
}

#[tokio::test]
async fn heartbeats_are_answered() {
    let (talking, connection) = peer([&greeting(), PUB, b"\x04\x0a\x04PING\0\x64abc\x00\x01x"].concat()).await;
    let mut connection = connection.unwrap();
    assert_eq!(connection.recv().await.unwrap(), [part(b"x")]);
    let mut stream = talking.await.unwrap();
    drop(connection);
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    // Greeting, READY, subscription, and then the answer.
    assert!(heard.ends_with(b"\x00\x01\x01\x04\x08\x04PONGabc"), "{heard:?}");
}
