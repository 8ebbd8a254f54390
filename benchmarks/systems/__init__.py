"""What is timed: a module a framework, each with SYSTEMS, {name: how to make what is timed}.

A maker takes a shape, which steps are observed ("full": no mask) and the mode ("forward", "train", "compile"), and
returns a function without arguments: one run, which ends when its result is there. What is made beforehand (input,
weights, mask) is not timed. In training a run computes the gradients of all parameters of the sum of the outputs.
"""
