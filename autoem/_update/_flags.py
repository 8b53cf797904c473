"""What an update had to do to stay finite: codes that end up in the result, by parameter."""

NOTHING, FLOORED, UNBOUNDED = 0, 1, 2

SENTENCES = {
    FLOORED: "reached its floor: the fit is degenerate there (a component that shrinks onto too few points)",
    UNBOUNDED: "has its mode on the boundary, where it was stopped just inside",
}
