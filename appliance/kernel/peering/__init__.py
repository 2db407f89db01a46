"""Work across engines: steps that run at a peer, steps of peers that run here, events and flows to and from them."""
