"""Where time goes, measured beside nothing but itself or a peer in the same process; never part of the tests."""
