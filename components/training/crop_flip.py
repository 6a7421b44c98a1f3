"""The base augmentation: a random crop and, where the recipe says so, a random flip."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from components.settings.recipe import Recipe
from components.training.loop import Augment


def base_augment(recipe: Recipe) -> Augment:
    """Return the recipe's random crop (reflected padding) and random horizontal flip, drawn for each image."""
    return compose(*([random_crop(recipe.crop)] if recipe.crop else []), *([random_flip] if recipe.flip else []))


def compose(*augments: Augment) -> Augment:
    """Return the augmentation that applies these one after the other; without any, images stay as they are."""

    def apply(images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
        for augment in augments:
            images = augment(images, rng)
        return images

    return apply


def random_flip(images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
    """Mirror each image left to right with probability one half."""
    mirrored = (torch.rand(len(images), generator=rng, device=rng.device) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def random_crop(pixels: int) -> Augment:
    """Return an augmentation that shifts each image by up to `pixels` each way and fills the border by reflection."""

    def crop(images: UInt8[Tensor, "b c h w"], rng: torch.Generator) -> UInt8[Tensor, "b c h w"]:
        count, _, height, width = images.shape
        device = images.device
        shift = torch.randint(-pixels, pixels + 1, (2, count), generator=rng, device=rng.device).to(device)
        rows = reflect(torch.arange(height, device=device) + shift[0, :, None], height)  # b h
        columns = reflect(torch.arange(width, device=device) + shift[1, :, None], width)  # b w
        each = torch.arange(count, device=device)[:, None, None]
        picked = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]  # b h w c
        return picked.permute(0, 3, 1, 2)

    return crop


def reflect(index: Int64[Tensor, "b n"], size: int) -> Int64[Tensor, "b n"]:
    """Fold indices outside 0..size-1 back without repeating the edge, as numpy's and torch's "reflect" do."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
