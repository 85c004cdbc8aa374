//! Starts the parts, carries facts between them, shuts them down in order.
