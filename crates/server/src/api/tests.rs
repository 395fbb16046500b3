//! Every endpoint over a real socket, by the typed client and by hand.
