"""How are many cases executed? Plan, kernels, executor, ledger."""
