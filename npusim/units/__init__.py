"""Models of single units, PE by PE: the definition that closed forms and the engine are tested against."""
