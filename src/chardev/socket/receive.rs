//! Bytes and descriptors through a socket.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send as send_to};

/// Reads what is there. Descriptors that come along go into `fds`; those beyond `keep` are closed.
pub(super) fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
    keep: usize,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    fds.truncate(keep);
    Ok(message.bytes)
}

/// Writes what fits; a reader that is gone is an error, not a signal.
pub(super) fn send(socket: &OwnedFd, data: &[u8]) -> io::Result<usize> {
    Ok(send_to(socket, data, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}
