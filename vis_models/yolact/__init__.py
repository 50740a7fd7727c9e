"""YOLACT: instance masks in real time, as a linear combination of prototypes.

Source: Bolya et al., "YOLACT", ICCV 2019, and the authors' code where the paper is silent. Here it is RGNN's detector.

    config.py       every choice
    model.py        the network, and its answers for a tracker and for itself
    decisions.py    suppression and assembling: from what the network says to instances
    losses.py       matching of priors and the four terms
"""
