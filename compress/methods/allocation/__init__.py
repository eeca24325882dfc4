"""Allocation of widths and removed blocks under one budget: a knapsack over a cost table.

After HALP (Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack"): kept importance is the value, measured
latency the weight, one budget for all. What a layer costs depends on the groups on both its sides, so items are not
independent. HALP prices a layer at its neighbours' present widths; here the few groups that couple the others (residual
streams) are held at each combination of their widths in turn (``search``). Given those, the rest falls into small parts that
share no cost term (``decomposition``), and a multiple-choice knapsack by dynamic programming is exact, up to its bins
(``knapsack``). Where the combinations are too many, hubs move one at a time from several starts, which is a local search and
no longer proven best.
"""
