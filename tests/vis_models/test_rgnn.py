from dataclasses import fields, replace

import pytest
import torch

from vis_models.rgnn import losses
from vis_models.rgnn.appearance import mask_pool
from vis_models.rgnn.model import Rgnn
from vis_models.rgnn.state import FREE, KEPT, SEEN, RgnnEncoded
from vis_models.rgnn.targets import first_owner, match_annotations
from vis_models.types import Detections, Objects, VideoInfo

from .drawn import HEIGHT, WIDTH, moving_squares, small_config

pytestmark = pytest.mark.unit


def detections(frames: int, slots: int = 6, seed: int = 0) -> RgnnEncoded:
    """Made-up detections of random boxes; the last slot is padding."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(frames, slots, 2, generator=g) * torch.tensor([WIDTH - 30.0, HEIGHT - 30.0])
    size = 8 + 20 * torch.rand(frames, slots, 2, generator=g)
    valid = torch.ones(frames, slots, dtype=torch.bool)
    valid[:, -1] = False
    return RgnnEncoded(
        boxes_px=torch.cat([corner, corner + size], -1),
        class_logits=torch.randn(frames, slots, 4, generator=g),
        mask_logits=5 * torch.randn(frames, slots, 16, 24, generator=g),
        valid=valid,
        pooled_c4=torch.cat([torch.ones(frames, slots + 1, 1), torch.rand(frames, slots + 1, 64, generator=g)], -1),
        pooled_c5=torch.cat([torch.ones(frames, slots + 1, 1), torch.rand(frames, slots + 1, 128, generator=g)], -1),
    )


def model_that_starts_tracks(**changes) -> Rgnn:
    torch.manual_seed(1)
    model = Rgnn(small_config(**changes)).eval()
    torch.nn.init.constant_(model.init_head.bias, 1.0)  # random weights alone would start none
    torch.nn.init.constant_(model.match_head.bias, 0.5)
    return model


def run(model: Rgnn, videos: list[RgnnEncoded], state=None):
    infos = [VideoInfo(str(n), HEIGHT, WIDTH) for n in range(len(videos))]
    state = model.start(infos) if state is None else state
    said = []
    for frame in range(len(videos[0])):
        tracks, state = model.step(RgnnEncoded.join([video[[frame]] for video in videos]), state)
        said.append(tracks)
    return said, state


def assert_states_equal(a, b):
    for field in fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x.is_floating_point() and x.numel():
            assert (x - y).abs().max() <= 1e-5 * max(1, x.abs().max()), field.name
        else:
            assert torch.equal(x, y), field.name


def test_layers_have_the_widths_of_table_3():
    with torch.device("meta"):
        from vis_models.rgnn.config import RgnnConfig
        from vis_models.rgnn.graph import GnnBlock

        first, second = GnnBlock(RgnnConfig(), first=True), GnnBlock(RgnnConfig(), first=False)
    assert [first.edge[0].in_features, first.empty_edge[0].in_features, first.detection.in_features] == [175, 174, 173]
    assert [second.edge[0].in_features, second.detection.in_features, second.track.in_features] == [384, 256, 256]


def test_videos_side_by_side_say_what_each_says_alone():
    model = model_that_starts_tracks()
    videos = [detections(4, seed=seed) for seed in range(3)]
    together, state = run(model, videos)
    for row, video in enumerate(videos):
        alone, own = run(model, [video])
        assert_states_equal(state[[row]], own)
        for frame in range(4):
            a, b = together[frame][row].sightings[0], alone[frame][0].sightings[0]
            assert a.track_ids == b.track_ids
            assert torch.equal(a.masks.whole(), b.masks.whole())


@pytest.mark.parametrize("cut", range(1, 5))
def test_a_clip_cut_anywhere_and_continued_is_the_whole_clip(cut: int):
    model = model_that_starts_tracks()
    video = detections(5)
    said, whole = run(model, [video])
    first, half = run(model, [video[:cut]])
    second, rest = run(model, [video[cut:]], half)
    assert_states_equal(whole, rest)
    for a, b in zip(said, first + second, strict=True):
        assert a[0].sightings[0].track_ids == b[0].sightings[0].track_ids
        assert torch.equal(a[0].sightings[0].masks.whole(), b[0].sightings[0].masks.whole())


def test_the_order_of_detections_changes_nothing_but_slots():
    model = model_that_starts_tracks(tracks=20)
    video = detections(3)
    order = torch.tensor([4, 2, 0, 3, 1, 5])
    mixed = type(video)(*(
        value[:, order] if name in ("boxes_px", "class_logits", "mask_logits", "valid")
        else torch.cat([value[:, :-1][:, order], value[:, -1:]], 1)
        for name, value in ((field.name, getattr(video, field.name)) for field in fields(video))
    ))  # fmt: skip
    _, a = run(model, [video])
    _, b = run(model, [mixed])
    apart = (a.embedding[0, :, None] - b.embedding[0]).abs().amax(-1) + (a.status[0, :, None] != b.status[0])
    alive = a.status[0] != FREE
    slots = torch.where(alive, apart.argmin(1), torch.arange(20))  # births fill slots in the order of detections
    assert alive.sum() > 5
    assert slots.unique().tolist() == list(range(20))
    of_slots = ("status", "boxes_px", "embedding", "cell", "mean", "variance", "class_logits")
    moved = {name: getattr(b, name)[:, slots] for name in of_slots}
    assert_states_equal(a, replace(b, **moved, track_id=a.track_id))


def test_padding_slots_change_nothing():
    model = model_that_starts_tracks()
    video = detections(3)
    noisy = replace(
        video,
        boxes_px=torch.where(video.valid[..., None], video.boxes_px, 7.0),
        class_logits=torch.where(video.valid[..., None], video.class_logits, 50.0),
    )
    assert_states_equal(run(model, [video])[1], run(model, [noisy])[1])


def test_births_beyond_the_free_slots_are_counted_as_dropped():
    model = model_that_starts_tracks(tracks=3)
    torch.nn.init.constant_(model.init_head.bias, 50.0)
    said, state = run(model, [detections(1)])
    assert (state.status == SEEN).all()
    assert said[0][0].dropped_births == 2  # five detections, three slots


def test_recycling_takes_the_slot_of_the_least_likely_track_out_of_sight_and_closes_it():
    model = model_that_starts_tracks(tracks=3, slot_recycling=True)
    torch.nn.init.constant_(model.init_head.bias, 50.0)
    torch.nn.init.constant_(model.match_head.bias, -50.0)  # nothing is found again
    said, state = run(model, [detections(3)])
    assert said[1][0].verdicts == []  # out of sight for one frame only
    assert sorted(verdict.track_id for verdict in said[2][0].verdicts) == [0, 1, 2]
    assert sorted(state.track_id[0].tolist()) == [3, 4, 5]
    assert [verdict.track_id for verdict in model.finish(state)[0].verdicts] == state.track_id[0].tolist()


def test_without_recycling_a_track_out_of_sight_keeps_its_slot():
    model = model_that_starts_tracks(tracks=3)
    torch.nn.init.constant_(model.init_head.bias, 50.0)
    torch.nn.init.constant_(model.match_head.bias, -50.0)
    _, state = run(model, [detections(3)])
    assert (state.status == KEPT).all()
    assert state.track_id[0].tolist() == [0, 1, 2]


def test_a_frame_without_detections_advances_the_tracker():
    model = model_that_starts_tracks()
    video = detections(2)
    empty = replace(video, valid=torch.zeros_like(video.valid))
    _, state = run(model, [empty])
    assert state.frame.item() == 2
    assert (state.status == FREE).all()


def test_masks_come_at_the_videos_own_size_and_never_overlap():
    model = model_that_starts_tracks()
    state = model.start([VideoInfo("tall", 100, 30), VideoInfo("wide", 30, 100)])
    tracks, _ = model.step(RgnnEncoded.join([detections(1), detections(1, seed=1)]), state)
    for said, size in zip(tracks, [(100, 30), (30, 100)], strict=True):
        masks = said.sightings[0].masks.whole()
        assert tuple(masks.shape[1:]) == size
        assert masks.sum(0).max() <= 1


def test_pooling_first_and_projecting_later_is_the_same_by_linearity():
    torch.manual_seed(0)
    features, score = torch.randn(1, 8, 6, 10), 5 * torch.randn(1, 3, 12, 20)
    conv = torch.nn.Conv2d(8, 4, 1)
    late = mask_pool(features, score)
    linear = late[..., 1:] @ conv.weight[:, :, 0, 0].T + late[..., :1] * conv.bias
    early = mask_pool(conv(features), score)[..., 1:]
    assert torch.allclose(linear, early, atol=1e-5)


def test_an_annotation_keeps_only_its_best_detection():
    encoded = replace(detections(1), boxes_px=torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]] * 2]))
    encoded = replace(encoded, valid=torch.tensor([[True, True, True, False, False, False]]))
    boxes, visible = torch.tensor([[[0.0, 0, 10, 9], [20, 20, 30, 30]]]), torch.ones(1, 2, dtype=torch.bool)
    found = match_annotations(encoded, boxes, visible)
    assert found.tolist() == [[0, -1, -1, -1, -1, -1]]


def test_only_the_first_track_of_an_identity_owns_it():
    identity = torch.tensor([[2, -1, 2, 0]])
    assert first_owner(identity, torch.tensor([[True] * 4])).tolist() == [[True, False, False, True]]
    assert first_owner(identity, torch.tensor([[False, True, True, True]])).tolist() == [[False, False, True, True]]


def test_an_object_that_has_no_track_yet_belongs_to_the_one_that_it_will_have():
    model = model_that_starts_tracks(tracks=3)
    last = replace(model.blank(1, torch.zeros(1, 2, dtype=torch.long)), status=torch.tensor([[KEPT, SEEN, FREE]]))
    now = torch.tensor([[SEEN, FREE, FREE]]), torch.tensor([[2, -1, -1]])
    assert losses.owners_of(*now, last, torch.tensor([[2, 0, -1]])).tolist() == [[2, 0, -1]]
    assert losses.owners_of(*now, last, torch.tensor([[2, 2, -1]])).tolist() == [[2, -1, -1]]  # a second track of one


def test_the_loss_reaches_every_weight_of_stage_2_and_none_of_the_detector():
    model = model_that_starts_tracks().train()
    clips = moving_squares(clips=2, length=4)
    encoded, objects = model.encode_clips(clips)
    perfect = replace(encoded, boxes_px=encoded.boxes_px.clone(), valid=encoded.valid.clone())
    perfect.boxes_px[:, :2] = objects.boxes_px.flatten(0, 1)  # a random detector finds nothing
    perfect.valid[:, :2] = True
    sum(model.encoded_loss(perfect, objects).values()).backward()
    silent = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert silent == []
    assert all(weight.grad is None for weight in model.detector.parameters())


def perfect_clip(length: int = 3) -> tuple[RgnnEncoded, Objects]:
    """Detections that hit both objects, and one that hits nothing."""
    clips = moving_squares(clips=2, length=length)
    encoded, objects = detections(2 * length), clips.objects
    boxes = encoded.boxes_px.clone()
    boxes[:, :2] = objects.boxes_px.flatten(0, 1)
    return replace(encoded, boxes_px=boxes), objects


def test_a_track_in_a_taken_slot_is_not_taught_the_class_of_the_one_before():
    # every frame shows another object alone, so that the third takes over the only slot from the first
    last_frame_only = (1e-9, 1e-9, 1.0)
    model = model_that_starts_tracks(tracks=1, slot_recycling=True, frame_weights=last_frame_only).train()
    torch.nn.init.constant_(model.init_head.bias, 50.0)
    torch.nn.init.constant_(model.match_head.bias, -50.0)
    encoded, objects = perfect_clip(length=3)
    alone = torch.zeros_like(encoded.valid)
    alone[:, 0] = True
    encoded = replace(encoded, valid=alone)
    visible = torch.tensor([[[True, False], [False, False], [False, False]]]).expand(2, -1, -1)
    objects = replace(objects, visible=visible)
    scores = []
    for label in (0, 1, 2):
        labels = torch.full_like(objects.labels, label)
        scores.append(model.encoded_loss(encoded, replace(objects, labels=labels))["score"].item())
    assert scores == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    kept = Rgnn(model.config.model_copy(update={"slot_recycling": False})).train()
    kept.load_state_dict(model.state_dict())
    assert kept.encoded_loss(encoded, objects)["score"] > 0.1  # the first track is still there, and scored


@pytest.mark.parametrize("switches", [{}, {"bottleneck_layers": 2, "variance_cross_term": "released"}])
def test_gradients_of_the_loss_are_its_slopes(switches):
    sizes = {"embedding": 6, "bottleneck": 3, "appearance_channels": 8, "gnn_blocks": 1, "initial_variance_logit": 0.5}
    model = model_that_starts_tracks(**sizes, init_train_logit=0.0, **switches).double()
    encoded, objects = perfect_clip()
    encoded = replace(encoded, **{
        field.name: value.double() for field in fields(encoded)
        if (value := getattr(encoded, field.name)).is_floating_point()
    })  # fmt: skip
    objects = replace(objects, boxes_px=objects.boxes_px.double())
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def terms() -> torch.Tensor:
        return torch.stack(list(model.encoded_loss(encoded, objects).values()))

    gradients = [torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True) for term in terms()]
    assert terms().min() > 0
    step = 1e-5
    for index, weight in enumerate(weights):
        way = torch.randn_like(weight)
        expected = [0.0 if of_term[index] is None else (of_term[index] * way).sum().item() for of_term in gradients]
        with torch.no_grad():
            ends = []
            for amount in (step, -2 * step):
                weight += amount * way
                ends.append(terms())
            weight += step * way
        assert ((ends[0] - ends[1]) / (2 * step)).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_in_bfloat16_every_term_is_finite_and_near():
    model = model_that_starts_tracks().train()
    encoded, objects = perfect_clip()
    exact = model.encoded_loss(encoded, objects)
    with torch.autocast("cpu", torch.bfloat16):
        near = model.encoded_loss(encoded, objects)
    for name, term in exact.items():
        assert near[name].dtype == torch.float32
        assert near[name].item() == pytest.approx(term.item(), rel=0.02)
    sum(near.values()).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_likelihoods_and_shares_of_pixels_are_never_rounded_to_bfloat16():
    model = model_that_starts_tracks()
    half = [torch.randn(5, 32).bfloat16(), torch.randn(5, 32).bfloat16(), torch.full((5, 32), 1e-3).bfloat16()]
    found = Detections(
        detections(2).boxes_px, detections(2).class_logits, 5 * torch.randn(2, 6, 16, 24), detections(2).valid
    )
    c4, c5 = torch.randn(2, 64, 8, 12), torch.randn(2, 128, 4, 6)
    alike, encoded = model._alike(*(value.float() for value in half)), model.attend(found, c4, c5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model._alike(*half), alike)
        again = model.attend(found, c4, c5)
    assert torch.equal(again.pooled_c4, encoded.pooled_c4)
    assert torch.equal(again.pooled_c5, encoded.pooled_c5)


def test_it_learns_to_follow_two_look_alikes():
    torch.manual_seed(0)
    model = Rgnn(small_config(init_train_logit=-1.0)).train()
    clips = moving_squares(clips=2, length=6)
    objects = replace(clips.objects, labels=torch.zeros_like(clips.objects.labels))
    encoded, _ = model.encode_clips(clips)
    logits = torch.full_like(encoded.class_logits, -5.0)
    logits[..., 1] = 5.0  # both look like class 0
    small = torch.nn.functional.avg_pool2d(objects.masks.flatten(0, 1).float(), 2)
    masks = torch.full_like(encoded.mask_logits, -20.0)
    masks[:, :2] = 40 * small - 20
    boxes = torch.zeros_like(encoded.boxes_px)
    boxes[:, :2] = objects.boxes_px.flatten(0, 1)
    valid = torch.zeros_like(encoded.valid)
    valid[:, :2] = True
    seen = replace(encoded, boxes_px=boxes, class_logits=logits, mask_logits=masks, valid=valid)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sum(model.encoded_loss(seen, objects).values()).backward()
        optimizer.step()
    model.eval()
    said, state = run(model, [seen[:6]])
    assert [tracks[0].sightings[0].track_ids for tracks in said] == [[0, 1]] * 6
    verdicts = model.finish(state)[0].verdicts
    assert [(verdict.track_id, verdict.category) for verdict in verdicts] == [(0, 0), (1, 0)]
    assert min(verdict.score for verdict in verdicts) > 0.8
    for track in (0, 1):
        mask, truth = said[-1][0].sightings[0].masks.whole()[track], objects.masks[0, -1, track]
        assert (mask & truth).sum() / (mask | truth).sum() > 0.7
