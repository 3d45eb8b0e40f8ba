"""The alignment loss over two processes equals that of one with the whole batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from clcr_hf.alignment import alignment_loss


def _samples() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinates `(8, 2, 5, 4)` of modalities of 2 and 3 tokens, membership, scale."""
    generator = torch.Generator().manual_seed(0)
    coordinates = torch.randn(8, 2, 5, 4, generator=generator)
    ids = torch.tensor([0, 0, 1, 1, 1])
    real = torch.rand(8, 5, generator=generator) > 0.2
    real[:, [0, 2]] = True
    real[4:, 4] = False
    membership = (ids == torch.arange(2)[:, None])[None] & real[:, None]
    return coordinates, membership, torch.tensor([0.7, 1.3])


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    coordinates, membership, scale = _samples()
    # The second rank's batch is a token shorter, as batches of ragged rows are.
    rows, length = (slice(0, 4), 5) if rank == 0 else (slice(4, 8), 4)
    own = coordinates[rows, :, :length].clone().requires_grad_()
    loss = alignment_loss(own, scale, membership[rows, :, :length], [2, length - 2], num_negatives=3)
    loss.backward()
    torch.save((loss.detach(), own.grad), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed with gloo")
def test_two_ranks_equal_one_with_the_whole_batch(tmp_path):
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    coordinates, membership, scale = _samples()
    coordinates.requires_grad_()
    expected = alignment_loss(coordinates, scale, membership, [2, 3], num_negatives=3)
    expected.backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close((found[0][0] + found[1][0]) / 2, expected.detach())
    # DistributedDataParallel takes the mean over ranks.
    torch.testing.assert_close(found[0][1] / 2, coordinates.grad[:4])
    torch.testing.assert_close(found[1][1] / 2, coordinates.grad[4:, :, :4])
