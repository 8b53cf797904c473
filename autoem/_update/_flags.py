"""What an update had to do to stay finite: codes that end up in the result, by parameter."""

NOTHING, FLOORED, UNBOUNDED, BLIND, INFINITE = 0, 1, 2, 3, 4

SENTENCES = {
    FLOORED: "reached its floor: the fit is degenerate there (a component that shrinks onto too few points)",
    BLIND: (
        "has a derivative of the log density that is not finite, and was not moved along it. Where a term is log(0) "
        "or 0/0 in a branch that jnp.where does not take, put a harmless number into that branch"
    ),
    UNBOUNDED: "has its mode on the boundary, where it was stopped just inside",
    INFINITE: (
        "has no finite best value: twice as large it leaves the objective as it is, at zero it would lower it (is "
        "there a covariate that separates the responses?). Give it a prior, or leave out what separates"
    ),
}
