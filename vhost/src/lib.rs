//! The virtio-net backend over vhost-user, and its frontend.
