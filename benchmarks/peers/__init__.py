"""Products, eigenpairs, planes and memory beside other libraries."""
