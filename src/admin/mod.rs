//! L5: the endpoints for operators.
