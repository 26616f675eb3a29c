//! The UDP socket under an endpoint.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// Most bytes that the kernel takes in one segmented send: what one IPv4 datagram could hold.
const SEND_BYTES_MAX: usize = 65_507;

/// A socket that cuts what quinn hands over at once to what the kernel takes at once.
///
/// Quinn sends up to ten datagrams in one call, whatever their size; above 6,550 bytes each the kernel refuses the call
/// with `EMSGSIZE`, which quinn takes for a lost MTU probe: the packets are gone, and the path looks like a black hole.
#[derive(Debug)]
pub(super) struct CuttingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// The size of the datagrams sent last, by which quinn is told how many to hand over.
    segment: AtomicUsize,
}

impl CuttingSocket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            inner: TokioRuntime.wrap_udp_socket(socket)?,
            segment: AtomicUsize::new(1),
        })
    }
}

impl AsyncUdpSocket for CuttingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(segment) = transmit.segment_size else {
            return self.inner.try_send(transmit);
        };
        self.segment.store(segment, Ordering::Relaxed);
        if transmit.contents.len() <= SEND_BYTES_MAX {
            return self.inner.try_send(transmit);
        }
        let piece = (SEND_BYTES_MAX / segment).max(1) * segment;
        for contents in transmit.contents.chunks(piece) {
            // When a later piece would block, the whole is sent again, and the receiver drops the packets it has.
            self.inner.try_send(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: (contents.len() > segment).then_some(segment),
                src_ip: transmit.src_ip,
            })?;
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        // At least two, or no segment size would be seen again when the datagrams become smaller.
        let fitting = SEND_BYTES_MAX / self.segment.load(Ordering::Relaxed);
        self.inner.max_transmit_segments().min(fitting.max(2))
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
