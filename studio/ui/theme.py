"""How the page looks: a calm workshop, in paper and ink, with one colour for each meaning."""

import gradio as gr

from studio.ui.context import STATIC

# Plain names: a GoogleFont would make the page ask another host.
_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_SHEETS = ("studio.css", "runs.css")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """The Gradio theme; `static/studio.css` does the rest."""
    ink = gr.themes.Color(
        "#f7f6f3",
        "#efede8",
        "#e2dfd8",
        "#cdc9c0",
        "#a8a49a",
        "#7d7a72",
        "#5c5a54",
        "#3f3e3a",
        "#2a2927",
        "#1c1c1b",
        "#131312",
    )
    accent = gr.themes.Color(
        "#eeedfc",
        "#dedcf9",
        "#c3bff3",
        "#a29cec",
        "#8078e3",
        "#5b52d6",
        "#4a42c4",
        "#3c35a3",
        "#312c82",
        "#292566",
        "#1a1742",
    )
    return gr.themes.Base(
        primary_hue=accent,
        neutral_hue=ink,
        font=_SANS,
        font_mono=_MONO,
        radius_size="md",
        text_size="md",
        spacing_size="md",
    ).set(
        body_background_fill="#faf9f6",
        body_background_fill_dark="#151514",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1d1d1b",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1d1d1b",
        block_border_color="#e6e3dc",
        block_border_color_dark="#32312e",
        border_color_primary="#e6e3dc",
        border_color_primary_dark="#32312e",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_info_text_size="12px",
        block_info_text_color="#6f6c65",
        block_info_text_color_dark="#a19d94",
        body_text_color="#22211f",
        body_text_color_dark="#e9e7e2",
        body_text_color_subdued="#6f6c65",
        body_text_color_subdued_dark="#a19d94",
        input_background_fill="#fdfcfa",
        input_background_fill_dark="#242422",
        # What can be typed into is told from what can only be read.
        input_border_width="1px",
        input_border_color="#d8d4cb",
        input_border_color_dark="#3d3c38",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_shadow_focus="0 0 0 2px rgba(74, 66, 196, .25)",
        input_shadow_focus_dark="0 0 0 2px rgba(162, 156, 236, .35)",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_400",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#262624",
        button_secondary_border_color="#d8d4cb",
        button_secondary_border_color_dark="#3d3c38",
        shadow_drop="none",
        shadow_drop_lg="none",
        block_shadow="none",
    )


def css() -> str:
    """The page's style sheets in one."""
    return "".join((STATIC / name).read_text(encoding="utf-8") for name in _SHEETS)
