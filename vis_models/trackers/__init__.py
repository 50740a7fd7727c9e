"""Trackers that link the objects of any detector; a `linked` model is one of each, and trains no tracker.

    config.py               which detector, which tracker, every choice
    contract.py             what a detector gives, what a tracker answers
    linked.py               the two together: a `VideoModel`
    linking.py              from a model folder to one whose detector has another tracker
    slots.py                what online trackers share: slots, births, the last word about a track

One tracker a file: `greedy.py`, `iou_tracker.py`, `feature_propagation.py`, `deep_sort.py`, `seq_tracker.py`. The last
four are the baselines of Yang, Fan, Xu, "Video instance segmentation", ICCV 2019 (section 6.1), which every later paper
compares with. The paper says one sentence of each: what it leaves open is a field with its reason.
"""
