//! L5: the composition root: cores, roles, wiring.
