//! Everything of sipbox that touches the kernel.
